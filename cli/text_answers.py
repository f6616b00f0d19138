"""What is not generated: labels, words for a mask, vectors and scores, for people and machines.

Workflow: `answers_of` asks a model and gives values in the types of JSON, one for each text; `show`
writes one of them for people. A new task is an entry in both tables.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from edgewise.cli import console

if TYPE_CHECKING:
    from edgewise.runtime import EncoderModel, Task
    from edgewise.runtime.loading import AnyModel

Text = str | tuple[str, str]
Answer = dict[str, Any]

BAR_WIDTH = 24  # characters of a bar that stands for 1
_EIGHTHS = " ▏▎▍▌▋▊▉"
VECTOR_SHOWN = 6  # numbers of a vector that people see


def answers_of(model: AnyModel, task: Task, texts: Sequence[Text], *, top: int) -> list[Answer]:
    """Ask a model about some texts.

    Args:
        model: A loaded one; whose manifest has the task, it is of the kind that answers it.
        task: Anything but "generate".
        texts: Each a text or a pair, which "embed" compares.
        top: Labels of a text, or words for a mask, at most.

    Returns:
        An answer a text, in the types of JSON: the task, the text and what was found.

    Raises:
        EdgewiseError: The model refuses a text or the task.
    """
    found = _TASKS[task](model, texts, top)
    shown = [text if isinstance(text, str) else list(text) for text in texts]
    return [
        {"task": task, "text": text, **answer} for text, answer in zip(shown, found, strict=True)
    ]


def show(answer: Answer, *, mask: str | None = None) -> None:
    """Write an answer for people; ``mask`` is how the model's mask is written."""
    task = answer["task"]
    if task == "fill-mask":
        _show_masks(answer, mask or "")
    elif task == "embed":
        _show_vector(answer)
    elif task == "score":
        console.write_table([(each["label"], f"{each['score']:.4f}") for each in answer["scores"]])
    else:
        _show_shares([(each["label"], each["probability"]) for each in answer["labels"]])


def _classify(model: AnyModel, texts: Sequence[Text], top: int) -> list[Answer]:
    return [
        {
            "labels": [
                {"label": label, "probability": probability}
                for label, probability in list(labels.items())[:top]
            ]
        }
        for labels in cast("EncoderModel", model).classify(texts)
    ]


def _fill_mask(model: AnyModel, texts: Sequence[Text], top: int) -> list[Answer]:
    encoder = cast("EncoderModel", model)
    return [
        {"masks": [[guess._asdict() for guess in guesses] for guesses in masks]}
        for masks in (encoder.fill_mask(text, count=top) for text in texts)
    ]


def _embed(model: AnyModel, texts: Sequence[Text], _top: int) -> list[Answer]:
    alone = [part for text in texts for part in ([text] if isinstance(text, str) else text)]
    vectors = iter(cast("EncoderModel", model).embed(alone).tolist())
    answers: list[Answer] = []
    for text in texts:
        if isinstance(text, str):
            answers.append({"vector": next(vectors)})
            continue
        first, second = next(vectors), next(vectors)
        cosine = sum(one * other for one, other in zip(first, second, strict=True))
        answers.append({"similarity": cosine, "vectors": [first, second]})
    return answers


def _score(model: AnyModel, texts: Sequence[Text], _top: int) -> list[Answer]:
    answers = []
    for text in texts:
        if not isinstance(text, str):
            raise TypeError("a decoder scores no pairs; the command line refuses them")
        scores = cast("Any", model).score(text)
        answers.append(
            {"scores": [{"label": label, "score": score} for label, score in scores.items()]}
        )
    return answers


_TASKS: Mapping[str, Callable[[Any, Sequence[Text], int], list[Answer]]] = {
    "classify": _classify,
    "fill-mask": _fill_mask,
    "embed": _embed,
    "score": _score,
}


def _show_shares(rows: Sequence[tuple[str, float]]) -> None:
    console.write_table(
        [(name, f"{share:6.1%}", bar(share)) for name, share in rows],
    )


def _show_masks(answer: Answer, mask: str) -> None:
    masks = answer["masks"]
    for number, guesses in enumerate(masks, start=1):
        if len(masks) > 1:
            console.write_line(f"mask {number}")
        _show_shares([(guess["text"].strip(), guess["probability"]) for guess in guesses])
    words = [f"[{guesses[0]['text'].strip()}]" for guesses in masks]
    texts = [answer["text"]] if isinstance(answer["text"], str) else answer["text"]
    console.write_line()
    for text in texts:
        parts = text.split(mask)
        filled = parts[0]
        for part in parts[1:]:
            filled += words.pop(0) + part
        console.write_line(filled)


def _show_vector(answer: Answer) -> None:
    if "similarity" in answer:
        console.write_line(f"similarity {answer['similarity']:.4f} (1: the same direction)")
        return
    vector = answer["vector"]
    first = ", ".join(f"{number:.4f}" for number in vector[:VECTOR_SHOWN])
    more = ", ..." if len(vector) > VECTOR_SHOWN else ""
    console.write_line(f"{len(vector)} numbers: {first}{more}")


def bar(share: float) -> str:
    """Draw a number from 0 to 1."""
    eighths = round(share * BAR_WIDTH * 8)
    if (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8":
        return "#" * (eighths // 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()

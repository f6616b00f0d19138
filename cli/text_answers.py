"""What is not generated: labels, words for a mask, vectors and scores, for people and machines.

Workflow: `answers_of` asks, here or on another machine, and gives an answer in the types of JSON
for each text; `show` writes one of them for people, `write_lines` one of each line as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgewise.cli import console, interrupts
from edgewise.cli.parameters import PATH
from edgewise.cli.text_lines import Line, batches
from edgewise.common.errors import EdgewiseError

if TYPE_CHECKING:
    from edgewise.runtime import Task

Text = str | tuple[str, str]
Answer = dict[str, Any]
Ask = Callable[[Sequence[Text]], Sequence[Mapping[str, Any]]]
"""Asks about texts and gives a judgement for each, as `edgewise.runtime.judging.judge` does."""

TOP = 5  # labels, or words for a mask
LINES_AT_ONCE = 64  # whose answers are written before the next are read
BAR_WIDTH = 24  # characters of a bar that stands for 1
_EIGHTHS = " ▏▎▍▌▋▊▉"
VECTOR_SHOWN = 6  # numbers of a vector that people see

TASKS = ("generate", "score", "fill-mask", "classify", "token-classify", "embed")


text_pair_option = click.option(
    "--text-pair",
    metavar="TEXT",
    help="A second text, whose relation to the first is judged; embed compares the two.",
)
top_option = click.option(
    "--top",
    type=click.IntRange(1, 1000),
    metavar="N",
    help=f"Give the N most probable labels, or words for a mask; default {TOP}.",
)

file_option = click.option(
    "--file",
    type=PATH,
    metavar="FILE",
    help="Judge each line of a file, - for standard input, and write a line of JSON for each.",
)


def refuse_without_meaning(task: str, given: Mapping[str, Any]) -> None:
    """Refuse options that were given and have no meaning for a task.

    Args:
        task: What is asked for.
        given: Values of options by their parameters' names.

    Raises:
        click.UsageError: One was given.
    """
    flags = {one.name: one.opts[0] for one in click.get_current_context().command.params}
    names = [
        flags[name]
        for name, value in given.items()
        if not (value is None or value is False or value == ())  # 0 is a value
    ]
    if names:
        raise click.UsageError(f"{', '.join(names)}: without meaning for the task {task}.")


def answer_to(ask: Ask, task: Task, text: str, text_pair: str | None) -> Answer:
    """Ask about a text, or about two, of which "embed" tells how alike they are.

    Raises:
        EdgewiseError: The model refuses them.
    """
    if text_pair is None:
        return answers_to(ask, task, [text])[0]
    if task == "embed":
        first, second = (judgement["vector"] for judgement in ask([text, text_pair]))
        cosine = sum(one * other for one, other in zip(first, second, strict=True))
        found: Mapping[str, Any] = {"similarity": cosine, "vectors": [first, second]}
    else:
        (found,) = ask([(text, text_pair)])
    return {"task": task, "text": [text, text_pair], **found}


def answers_to(ask: Ask, task: Task, texts: Sequence[str]) -> list[Answer]:
    """Ask about each of some texts.

    Raises:
        EdgewiseError: The model refuses one.
    """
    return [
        {"task": task, "text": text, **judgement}
        for text, judgement in zip(texts, ask(texts), strict=True)
    ]


def write_lines(ask: Ask, task: Task, lines: Iterator[Line]) -> None:
    """Write a line of JSON for each text; a fault names its line and comes behind those before.

    Raises:
        InputError: The model refuses a line.
    """
    for batch in batches(lines, LINES_AT_ONCE):
        interrupts.check()
        try:
            answers = answers_to(ask, task, [text for _, text in batch])
        except EdgewiseError:
            answers = []
            for number, text in batch:  # to find the one
                try:
                    (answer,) = answers_to(ask, task, [text])
                except EdgewiseError as error:
                    raise console.InputError(f"Line {number}: {error}") from error
                console.write_json(answer, one_line=True)
        for answer in answers:
            console.write_json(answer, one_line=True)


def show_or_write(answer: Answer, *, as_json: bool) -> None:
    """Write an answer, for people or as a line of JSON."""
    if as_json:
        console.write_json(answer, one_line=True)
    else:
        show(answer)


def show(answer: Answer) -> None:
    """Write an answer for people."""
    if "masks" in answer:
        _show_masks(answer)
    elif "spans" in answer:
        _show_spans(answer)
    elif "vector" in answer:
        _show_vector(answer["vector"])
    elif "similarity" in answer:
        console.write_line(f"similarity {answer['similarity']:.4f} (1: the same direction)")
    elif "scores" in answer:
        console.write_table([(each["label"], f"{each['score']:.4f}") for each in answer["scores"]])
    else:
        _show_shares([(each["label"], each["probability"]) for each in answer["labels"]])


def _show_shares(rows: Sequence[tuple[str, float]]) -> None:
    console.write_table([(name, f"{share:6.1%}", bar(share)) for name, share in rows])


def _show_masks(answer: Answer) -> None:
    masks = answer["masks"]
    for number, words in enumerate(masks, start=1):
        if len(masks) > 1:
            console.write_line(f"mask {number}")
        _show_shares([(word["text"].strip(), word["probability"]) for word in words])
    best = iter([words[0]["text"].strip() for words in masks])
    console.write_line()
    for text in [answer["text"]] if isinstance(answer["text"], str) else answer["text"]:
        first, *rest = text.split(answer["mask"])
        console.write_line(first + "".join(f"[{next(best)}]{part}" for part in rest))


def _show_spans(answer: Answer) -> None:
    """Write the text with its labelled parts marked, and a table of them."""
    text, shown, end = answer["text"], "", 0
    for span in answer["spans"]:
        shown += f"{text[end : span['start']]}[{text[span['start'] : span['end']]}]"
        end = span["end"]
    console.write_line(shown + text[end:])
    if answer["spans"]:
        console.write_line()
    console.write_table(
        [
            (span["text"], span["label"], f"{span['probability']:6.1%}", bar(span["probability"]))
            for span in answer["spans"]
        ]
    )


def _show_vector(vector: Sequence[float]) -> None:
    first = ", ".join(f"{number:.4f}" for number in vector[:VECTOR_SHOWN])
    more = ", ..." if len(vector) > VECTOR_SHOWN else ""
    console.write_line(f"{len(vector)} numbers: {first}{more}")


def bar(share: float) -> str:
    """Draw a number from 0 to 1."""
    eighths = round(share * BAR_WIDTH * 8)
    if (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8":
        return "#" * (eighths // 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()

"""Judging texts: every task but generating, with answers in the types of JSON.

The command line and the agent on the network answer by this one function, so that their answers are
the same. A new task is an entry in a table.

Rules: what a task does not take is refused, never left out unseen. Numbers of a vector are written
as short as float32 allows; read back into float32 they are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgewise.runtime.manifest import Manifest, Task
from edgewise.runtime.options import OptionsError
from edgewise.runtime.tasks import check_task

if TYPE_CHECKING:
    from edgewise.runtime.sessions.encoder import Text

DEFAULT_TOP = 5  # labels of a text, or words for a mask

Judgement = dict[str, Any]


class Judge(Protocol):
    """A model that judges texts: its manifest says how, and it has the methods for that."""

    @property
    def manifest(self) -> Manifest:
        """Of its bundle."""


def judge(
    model: Judge, task: Task, texts: Sequence[Text], *, top: int = DEFAULT_TOP
) -> list[Judgement]:
    """Judge texts.

    Args:
        model: A loaded model; whose manifest has the task, it is of the kind that does it.
        task: Anything but "generate".
        texts: Each a text or, for "classify" and "fill-mask", a pair.
        top: Labels of a text, or words for a mask, at most.

    Returns:
        For each text what was found, in the types of JSON:
        - classify: ``{"labels": [{"label", "probability"}, ...]}``, the most probable first;
        - token-classify: ``{"spans": [{"text", "label", "probability", "start", "end"}, ...]}``,
          start and end in characters of the text;
        - fill-mask: ``{"mask", "masks": [[{"text", "token_id", "probability"}, ...], ...]}``, how
          the mask is written, and for each mask in order its words, the most probable first;
        - embed: ``{"vector": [...]}``, of length 1;
        - score: ``{"scores": [{"label", "score"}, ...]}``.

    Raises:
        TaskError: The bundle was not made for the task.
        EdgewiseError: The model refuses a text.
    """
    check_task(model.manifest, task)
    found = _TASKS.get(task)
    if found is None:
        raise OptionsError(f"the task is {task}; accepted here: {', '.join(_TASKS)}")
    return found(model, texts, top)


def _classify(model: Any, texts: Sequence[Text], top: int) -> list[Judgement]:
    return [
        {
            "labels": [
                {"label": label, "probability": probability}
                for label, probability in list(labels.items())[:top]
            ]
        }
        for labels in model.classify(texts)
    ]


def _token_classify(model: Any, texts: Sequence[Text], _top: int) -> list[Judgement]:
    found = model.token_classify(_alone(texts, "token-classify"))
    return [{"spans": [dataclasses.asdict(span) for span in spans]} for spans in found]


def _fill_mask(model: Any, texts: Sequence[Text], top: int) -> list[Judgement]:
    return [
        {
            "mask": model.mask_text,
            "masks": [
                [guess._asdict() for guess in guesses]
                for guesses in model.fill_mask(text, count=top)
            ],
        }
        for text in texts
    ]


def _embed(model: Any, texts: Sequence[Text], _top: int) -> list[Judgement]:
    vectors = model.embed(_alone(texts, "embed"))
    return [{"vector": [float(str(number)) for number in vector]} for vector in vectors]


def _score(model: Any, texts: Sequence[Text], _top: int) -> list[Judgement]:
    return [
        {"scores": [{"label": label, "score": score} for label, score in model.score(text).items()]}
        for text in _alone(texts, "score")
    ]


def _alone(texts: Sequence[Text], task: str) -> list[str]:
    """Return the texts after refusing pairs."""
    alone = [text for text in texts if isinstance(text, str)]
    if len(alone) < len(texts):
        raise OptionsError(f"the task {task} takes texts one by one; a pair was given")
    return alone


_TASKS: Mapping[str, Callable[[Any, Sequence[Text], int], list[Judgement]]] = {
    "classify": _classify,
    "token-classify": _token_classify,
    "fill-mask": _fill_mask,
    "embed": _embed,
    "score": _score,
}

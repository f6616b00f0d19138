"""What an agent found in a text, read strictly from the reply into types of our own.

Each function takes one object of ``Results.results``; which one fits follows from the verb. Rules:
an unknown field or a wrong type is an error that names the field, as everywhere on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgewise.device.errors import WireError
from edgewise.device.fields import Fields
from edgewise.device.reply_messages import MAX_COUNT, MAX_NUMBER, MAX_REPLY_BYTES

MAX_ITEMS = 65_536  # numbers of a vector, parts of a text, words for a mask


@dataclass(frozen=True)
class Word:
    """A word for a mask."""

    text: str
    token_id: int
    probability: float


@dataclass(frozen=True)
class Span:
    """A part of a text with its label; ``start`` and ``end`` count its characters."""

    text: str
    label: str
    probability: float
    start: int
    end: int  # exclusive


def labels_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Read labels and their probabilities, in the order of the reply.

    Raises:
        WireError: It is something else.
    """
    return _numbers_by_label(result, "labels", "probability", 0.0, 1.0)


def scores_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Read labels and their scores.

    Raises:
        WireError: It is something else.
    """
    return _numbers_by_label(result, "scores", "score", -MAX_NUMBER, MAX_NUMBER)


def vector_of(result: Mapping[str, Any]) -> list[float]:
    """Read a vector.

    Raises:
        WireError: It is something else.
    """
    fields = _fields(result)
    numbers = _items(fields, "vector")
    fields.nothing_else()
    if not all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in numbers
    ):
        raise WireError("The field 'vector' must be a list of numbers.")
    return [float(number) for number in numbers]


def words_of(result: Mapping[str, Any]) -> list[list[Word]]:
    """Read the words for each mask of a text, in order.

    Raises:
        WireError: It is something else.
    """
    fields = _fields(result)
    fields.optional_text("mask", max_length=MAX_REPLY_BYTES)
    masks = _items(fields, "masks")
    fields.nothing_else()
    if not all(isinstance(words, list) for words in masks):
        raise WireError("Each item of 'masks' must be a list.")
    return [[_word(fields.nested(word, "masks")) for word in words] for words in masks]


def spans_of(result: Mapping[str, Any]) -> list[Span]:
    """Read the labelled parts of a text, in order.

    Raises:
        WireError: It is something else.
    """
    fields = _fields(result)
    spans = fields.take("spans")
    fields.nothing_else()
    if not isinstance(spans, list):
        raise WireError("The field 'spans' must be a list.")
    return [_span(fields.nested(span, "spans")) for span in spans]


def _fields(result: Mapping[str, Any]) -> Fields:
    return Fields(dict(result), what="result")


def _items(fields: Fields, name: str) -> list[Any]:
    items = fields.items(name, max_length=MAX_ITEMS)
    if not items:
        raise fields.fault(f"The result has no field {name!r}.")
    return items


def _numbers_by_label(
    result: Mapping[str, Any], name: str, number: str, low: float, high: float
) -> dict[str, float]:
    fields = _fields(result)
    found = {}
    for item in _items(fields, name):
        one = fields.nested(item, name)
        label = one.text("label", max_length=MAX_REPLY_BYTES)
        found[label] = one.number(number, low, high)
        one.nothing_else()
    fields.nothing_else()
    return found


def _word(fields: Fields) -> Word:
    word = Word(
        fields.text("text", max_length=MAX_REPLY_BYTES),
        fields.integer("token_id", 0, MAX_COUNT),
        fields.number("probability", 0.0, 1.0),
    )
    fields.nothing_else()
    return word


def _span(fields: Fields) -> Span:
    span = Span(
        fields.text("text", max_length=MAX_REPLY_BYTES),
        fields.text("label", max_length=MAX_REPLY_BYTES),
        fields.number("probability", 0.0, 1.0),
        fields.integer("start", 0, MAX_COUNT),
        fields.integer("end", 0, MAX_COUNT),
    )
    fields.nothing_else()
    return span

"""Results of a reply: read into our types, and refused in any other form."""

from collections.abc import Callable
from typing import Any

import pytest

from edgewise.device.errors import WireError
from edgewise.device.results import (
    Span,
    Word,
    labels_of,
    scores_of,
    spans_of,
    vector_of,
    words_of,
)

LABELS = {"labels": [{"label": "b", "probability": 1}, {"label": "a", "probability": 0.0}]}
SCORES = {"scores": [{"label": "a", "score": -3.5}]}
WORD = {"text": " x", "token_id": 7, "probability": 0.5}
SPAN = {"text": "Zürich", "label": "LOC", "probability": 0.9, "start": 3, "end": 9}


def test_each_kind_is_read() -> None:
    assert list(labels_of(LABELS).items()) == [("b", 1.0), ("a", 0.0)]
    assert scores_of(SCORES) == {"a": -3.5}
    assert vector_of({"vector": [1, -0.5]}) == [1.0, -0.5]
    assert words_of({"mask": "[MASK]", "masks": [[WORD], []]}) == [[Word(" x", 7, 0.5)], []]
    assert spans_of({"spans": [SPAN]}) == [Span("Zürich", "LOC", 0.9, 3, 9)]
    assert spans_of({"spans": []}) == []


@pytest.mark.parametrize(
    ("read", "result", "reason"),
    [
        (labels_of, {}, "no field 'labels'"),
        (labels_of, {**LABELS, "more": 1}, "unknown fields: 'more'"),
        (labels_of, {"labels": [{"label": "a"}]}, "no field 'probability'"),
        (labels_of, {"labels": [{"label": "a", "probability": 1.5}]}, "0 to 1"),
        (labels_of, {"labels": [{"label": 1, "probability": 1}]}, "'label' must be a string"),
        (labels_of, {"labels": ["a"]}, "must be an object"),
        (labels_of, {"labels": [{**LABELS["labels"][0], "x": 1}]}, "unknown fields: 'x'"),
        (scores_of, {"scores": [{"label": "a", "score": "1"}]}, "accepted: a number"),
        (vector_of, {}, "no field 'vector'"),
        (vector_of, {"vector": [1, True]}, "a list of numbers"),
        (vector_of, {"vector": [1, None]}, "a list of numbers"),
        (vector_of, {"vector": [1], "similarity": 1}, "unknown fields"),
        (words_of, {"masks": [WORD]}, "must be a list"),
        (words_of, {"masks": [[{**WORD, "token_id": -1}]]}, "a whole number from 0"),
        (words_of, {"masks": [[1]]}, "must be an object"),
        (words_of, {"mask": 1, "masks": [[WORD]]}, "'mask' must be a string"),
        (spans_of, {}, "must be a list"),
        (spans_of, {"spans": [{**SPAN, "end": 1.5}]}, "'end' is 1.5"),
        (spans_of, {"spans": [{**SPAN, "x": 1}]}, "unknown fields"),
    ],
)
def test_every_other_form_is_refused(
    read: Callable[[Any], Any], result: dict[str, Any], reason: str
) -> None:
    with pytest.raises(WireError, match=reason):
        read(result)

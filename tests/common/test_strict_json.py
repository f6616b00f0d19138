"""JSON from strangers: what is not strictly JSON is refused, fast, and with our own error."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.common.strict_json import JsonError, decode_object, encode_object

LIMITS = {"max_bytes": 1 << 21, "max_depth": 6}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(item) for item in value), default=0)
    return 0


@settings(deadline=None)
@given(st.dictionaries(texts, values, max_size=4))
def test_what_is_written_is_read_back(value: dict[str, Any]) -> None:
    payload = encode_object(value)
    assert decode_object(payload, max_bytes=len(payload), max_depth=depth(value)) == value
    with pytest.raises(JsonError, match="bytes"):
        decode_object(payload, max_bytes=len(payload) - 1, max_depth=99)
    with pytest.raises(JsonError, match="nested"):
        decode_object(payload, max_bytes=len(payload), max_depth=depth(value) - 1)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_an_object_or_our_error(payload: bytes) -> None:
    try:
        result = decode_object(payload, **LIMITS)
    except JsonError:
        return
    assert result == json.loads(payload)


@settings(deadline=None)
@given(st.text(alphabet='{}[]",:\\u0d8etrufalsn1-.', max_size=60))
def test_whatever_looks_like_json_gives_an_object_or_our_error(text: str) -> None:
    try:
        result = decode_object(text.encode(), **LIMITS)
    except JsonError:
        return
    assert result == json.loads(text)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "object"),
        (b'"text"', "object"),
        (b"null", "object"),
        (b'{"a":1', "not JSON"),
        (b'{"a":1}x', "not JSON"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-Infinity}', "Infinity"),
        (b'{"a":1e999}', "too large"),
        (b'{"a":-1e999}', "too large"),
        (b'{"a":1,"a":1}', "twice"),
        (b'{"x":{"a":1,"\\u0061":2}}', "twice"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b'{"a":[{"b":"\\ud83d x"}]}', "surrogate"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "not JSON"),
        ('{"a":1}'.encode("utf-16"), "UTF-8"),
        ('{"a":1}'.encode("utf-16-be"), "not JSON"),
        (b'{"a":"tab\there"}', "not JSON"),
        (b'{"a":' + b"9" * 33 + b"}", "characters"),
        (b'{"a":0.' + b"9" * 33 + b"}", "characters"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    ],
)
def test_hostile_input_is_refused(payload: bytes, reason: str) -> None:
    with pytest.raises(JsonError, match=reason):
        decode_object(payload, **LIMITS)


def test_brackets_inside_strings_are_no_nesting() -> None:
    value = {"a": '[[[[[[[[{{{{{{{"\\', "b\\": "}]}]"}
    assert decode_object(encode_object(value), max_bytes=1000, max_depth=1) == value


def test_a_surrogate_pair_is_one_character() -> None:
    assert decode_object(b'{"a":"\\ud83d\\ude00"}', **LIMITS) == {"a": "\N{GRINNING FACE}"}


@pytest.mark.parametrize(
    "payload",
    [b'"' + b'\\"' * 900_000, b'"' + b'\\"' * 900_000 + b"\\", b'"' * 1_800_001, b"\\" * 1_800_000],
)
@pytest.mark.timeout(60)  # a quadratic scan would take hours
def test_strings_without_an_end_are_refused_in_linear_time(payload: bytes) -> None:
    with pytest.raises(JsonError):
        decode_object(payload, **LIMITS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_json_is_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_object({"a": value})

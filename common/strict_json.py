"""JSON from strangers: one object, strictly read.

Python's ``json`` takes much that the standard (RFC 8259, RFC 7493 "I-JSON") or common sense does
not: NaN, infinities (``1e999`` too), duplicate keys, lone surrogates, numbers of thousands of
digits, other encodings, nesting until the interpreter's stack ends. Each is refused here, with a
clause that says where the fault lies.

Workflow: size, UTF-8, nesting (counted before the parser sees it), parse, strings.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

MAX_NUMBER_LENGTH = 32  # characters; a 64-bit integer has 20, a double's shortest form 24
# A string that does not end is taken up to the end of the text, possessively: otherwise each of its
# quotes would be tried as a new start, and the scan of a hostile megabyte would take minutes.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonError(ValueError):
    """What was given is no JSON object of the strict kind; the message is a clause, as "it is ...".

    Attributes:
        too_large: Whether it has more bytes than are taken, and nothing else was looked at.
    """

    def __init__(self, clause: str, *, too_large: bool = False) -> None:
        super().__init__(clause)
        self.too_large = too_large


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"the number {name} is not JSON; leave the field out instead")


def _check_length(digits: str) -> None:
    if len(digits) > MAX_NUMBER_LENGTH:
        raise JsonError(f"a number has {len(digits)} characters, {MAX_NUMBER_LENGTH} are taken")


def _integer(digits: str) -> int:
    _check_length(digits)
    return int(digits)


def _finite(digits: str) -> float:
    _check_length(digits)
    value = float(digits)
    if not math.isfinite(value):
        raise JsonError(f"the number {digits} is too large for a double")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise JsonError(f"the field {key[:64]!r} is given twice")
        result[key] = value
    return result


def _check_depth(text: str, max_depth: int) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        mark = match.group()
        if mark in "[{":
            depth += 1
            if depth > max_depth:
                raise JsonError(f"it is nested deeper than {max_depth} levels")
        elif mark in "]}":
            depth -= 1


def _check_strings(value: Any) -> None:
    """Refuse lone surrogates; recursion is safe, since the depth has been checked."""
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise JsonError("a string holds half of a surrogate pair, which is no character")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_strings(key)
            _check_strings(item)
    elif isinstance(value, list):
        for item in value:
            _check_strings(item)


def _outermost(value: object) -> str:
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def decode_object(content: bytes, *, max_bytes: int, max_depth: int) -> dict[str, Any]:
    """Read one JSON object.

    Args:
        content: The whole file or message, UTF-8.
        max_bytes: The largest content taken, in bytes.
        max_depth: How many brackets may be open at once; the object itself is one.

    Returns:
        The object; every number in it is finite, every string is well-formed Unicode.

    Raises:
        JsonError: If it is anything else.
    """
    if len(content) > max_bytes:
        raise JsonError(
            f"it has {len(content)} bytes, at most {max_bytes} are taken", too_large=True
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 (byte {error.start})") from error
    _check_depth(text, max_depth)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except json.JSONDecodeError as error:
        raise JsonError(f"it is not JSON ({error.msg}, character {error.pos})") from error
    except RecursionError as error:  # max_depth was too generous for this interpreter
        raise JsonError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise JsonError(f"its outermost value is {_outermost(value)}, not an object")
    _check_strings(value)
    return value


def encode_object(value: dict[str, Any]) -> bytes:
    """Write one object as compact UTF-8 JSON.

    Args:
        value: The object; NaN and infinities in it are a fault of ours.

    Returns:
        The bytes.

    Raises:
        ValueError: If a number is not finite or a string is not well-formed Unicode.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

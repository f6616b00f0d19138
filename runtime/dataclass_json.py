"""JSON into frozen dataclasses, strictly: the types of the fields are the schema.

Workflow: `edgewise.common.strict_json` turns bytes into a dict, ``read_dataclass`` walks it along
the dataclass's annotations and lists every fault it meets, not only the first.

Rules: unknown and missing fields are faults, defaults are for Python callers and never for files;
a bool is no int, a whole number is accepted where a float is wanted, a float never where an int is.
Understood annotations: dataclasses, str, int, float, bool, ``X | None``, ``Literal``,
``tuple[X, ...]``, ``Mapping[str, X]`` and ``object`` (any JSON value).
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")

_INVALID: Any = object()  # stands for a value whose fault is already in the list
_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def describe(value: object) -> str:
    """Name a JSON value for an error message, cut at 40 characters."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 40 else text[:37] + "..."


def read_dataclass(kind: type[T], value: object, where: str, problems: list[str]) -> T | None:
    """Build a dataclass from a decoded JSON object.

    Args:
        kind: The dataclass.
        value: What stands in the file.
        where: How to name this value in a fault, e.g. ``"manifest"``.
        problems: Faults are appended here, each a clause that begins with the field's name.

    Returns:
        The instance, or None when a fault was found (its ``__post_init__`` is then not run).
    """
    count = len(problems)
    result = _read(kind, value, where, problems)
    return None if len(problems) > count else result


def _read(kind: Any, value: object, where: str, problems: list[str]) -> Any:
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if kind is object:
        return value
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, where, problems)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        choices = ", ".join(json.dumps(choice) for choice in arguments)
        return _fault(f"{where} is {describe(value)}; accepted: {choices}", problems)
    if origin is Union or origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _read(inner, value, where, problems)
    if origin is tuple:
        if not isinstance(value, list):
            return _fault(f"{where} must be a list, not {describe(value)}", problems)
        return tuple(
            _read(arguments[0], item, f"{where}[{index}]", problems)
            for index, item in enumerate(value)
        )
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            return _fault(f"{where} must be an object, not {describe(value)}", problems)
        return {
            key: _read(arguments[1], item, f"{where}.{key}", problems)
            for key, item in value.items()
        }
    return _read_scalar(kind, value, where, problems)


def _read_scalar(kind: type, value: object, where: str, problems: list[str]) -> Any:
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            return _fault(f"{where} is too large", problems)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        return _fault(f"{where} must be {_NAMES[kind]}, not {describe(value)}", problems)
    return value


def _read_fields(kind: Any, value: object, where: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        return _fault(f"{where} must be an object, not {describe(value)}", problems)
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    count = len(problems)
    problems += [f"{where}.{name} is missing" for name in names if name not in value]
    problems += [f"{where}.{name} is unknown" for name in value if name not in hints]
    arguments = {
        name: _read(hints[name], value[name], f"{where}.{name}", problems)
        for name in names
        if name in value
    }
    return _INVALID if len(problems) > count else kind(**arguments)


def _fault(problem: str, problems: list[str]) -> Any:
    problems.append(problem)
    return _INVALID

"""Compares a parsed TOML table with the fields it must have, so that nothing goes unnoticed.

Workflow: `problems_with_fields(content, schema)` returns every missing, unknown and ill-typed
field as a sentence; only a table without any is built from. Rules: a schema is a mapping of field
names to kinds, where a nested mapping is a table and Each(...) a table whose keys are free names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from edgewise.firmware_profiles.vocabulary import nearest


class Kind(Enum):
    """What one value may be; the value is how a message calls it."""

    TEXT = "a text"
    INTEGER = "an integer"
    TEXTS = "a list of texts"


@dataclass(frozen=True)
class Each:
    """A table whose keys are names of the author's choice and whose values are all tables."""

    schema: Schema


Schema = Mapping[str, "Kind | Each | Schema"]


def _is(value: object, kind: Kind) -> bool:
    if kind is Kind.TEXT:
        return isinstance(value, str)
    if kind is Kind.INTEGER:  # bool is an int in Python, but "threads = true" is no number
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _problems_with_value(value: object, expected: Kind | Each | Schema, path: str) -> list[str]:
    if isinstance(expected, Kind):
        return [] if _is(value, expected) else [f"{path} must be {expected.value}, not {value!r}"]
    if not isinstance(value, dict):
        return [f"{path} must be a table, not {value!r}"]
    if isinstance(expected, Each):
        problems = []
        for name, entry in value.items():
            problems += _problems_with_value(entry, expected.schema, f"{path}.{name}")
        return problems
    return problems_with_fields(value, expected, path)


def problems_with_fields(content: Mapping[str, Any], schema: Schema, path: str = "") -> list[str]:
    """Name every missing, unknown and ill-typed field of a table and of the tables in it.

    Args:
        content: The parsed table.
        schema: Its fields and their kinds.
        path: Dotted name of the table, "" for the file itself.

    Returns:
        One sentence a fault, in the order of the schema, then unknown fields in the file's order.
    """
    problems = []
    prefix = f"{path}." if path else ""
    for field, expected in schema.items():
        if field in content:
            problems += _problems_with_value(content[field], expected, f"{prefix}{field}")
        else:
            kind = expected.value if isinstance(expected, Kind) else "a table"
            problems.append(f"{prefix}{field} is missing ({kind})")
    problems += [
        f"{prefix}{field} is not a field of a profile{nearest(field, schema)}"
        for field in content
        if field not in schema
    ]
    return problems

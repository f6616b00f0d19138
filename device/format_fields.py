"""The fields of a request that say what its answer must look like; it has at most one of them.

Rules: here only the form is checked. Whether a schema, expression or grammar can be followed is
found out by the model when the request's turn comes.
"""

from __future__ import annotations

import json
from typing import Any

from edgewise.device.fields import Fields
from edgewise.runtime.output_format import (
    CHOICES_MAX,
    FORMAT_MAX_BYTES,
    FormatError,
    Kind,
    OutputFormat,
)

FIELDS: dict[Kind, str] = {
    "json": "schema",
    "regex": "regex",
    "choice": "choices",
    "lark": "grammar",
}


def encode_format(output_format: OutputFormat | None) -> dict[str, Any]:
    """Return the field of a format, by its name; none where there is no format."""
    if output_format is None:
        return {}
    is_json = output_format.kind in ("json", "choice")
    value = json.loads(output_format.text) if is_json else output_format.text
    return {FIELDS[output_format.kind]: value}


def parse_format(fields: Fields) -> OutputFormat | None:
    """Take the fields of a format.

    Raises:
        WireError: There are several, or one is no format.
    """
    given = [name for name in FIELDS.values() if fields.has(name)]
    if len(given) > 1:
        raise fields.fault(f"The request has {' and '.join(map(repr, given))}; give one of them.")
    schema = fields.take("schema")
    expression = fields.optional_text("regex", max_length=FORMAT_MAX_BYTES)
    choices = fields.items("choices", max_length=CHOICES_MAX)
    grammar = fields.optional_text("grammar", max_length=FORMAT_MAX_BYTES)
    if schema is not None and not isinstance(schema, dict):
        raise fields.fault("The field 'schema' must be an object.")
    try:
        if schema is not None:
            return OutputFormat.json_schema(schema)
        if expression is not None:
            return OutputFormat.regex(expression)
        if choices:
            return OutputFormat.choice(choices)
        return None if grammar is None else OutputFormat.lark(grammar)
    except FormatError as error:
        raise fields.fault(f"The field {given[0]!r} is refused: {error}.") from error

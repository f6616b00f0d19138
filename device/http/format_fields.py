"""The field ``response_format``: what an answer must look like.

OpenAI's types are text, json_object and json_schema; beyond them there are what the runtime has as
well: {"type": "regex", "regex": ...}, {"type": "choice", "choices": [...]} and {"type": "lark",
"grammar": ...}. A schema is always kept to, whether ``strict`` says so or not.
"""

from __future__ import annotations

from edgewise.device.http.request_fields import RequestFields
from edgewise.runtime.output_format import CHOICES_MAX, FORMAT_MAX_BYTES, OutputFormat

TYPES = ("text", "json_object", "json_schema", "regex", "choice", "lark")
NAME_MAX_LENGTH = 256  # characters


def take_output_format(fields: RequestFields) -> OutputFormat | None:
    """Take what the answer must look like; None: like any text.

    Raises:
        FieldError: It breaks the form.
        FormatError: It is too large, or empty.
    """
    if not fields.has("response_format"):
        fields.take("response_format")  # which makes it known
        return None
    inner = fields.inner("response_format")
    kind = inner.choice("type", TYPES)
    found: OutputFormat | None = None
    match kind:
        case "json_object":
            found = OutputFormat.json_schema({"type": "object"})
        case "json_schema":
            found = _schema(inner)
        case "regex":
            found = OutputFormat.regex(inner.text("regex", max_length=FORMAT_MAX_BYTES))
        case "choice":
            found = OutputFormat.choice(inner.items("choices", max_length=CHOICES_MAX))
        case "lark":
            found = OutputFormat.lark(inner.text("grammar", max_length=FORMAT_MAX_BYTES))
    inner.nothing_else()
    return found


def _schema(inner: RequestFields) -> OutputFormat:
    described = inner.inner("json_schema")
    described.optional_text("name", max_length=NAME_MAX_LENGTH)
    described.optional_text("description", max_length=FORMAT_MAX_BYTES)
    described.flag("strict", default=False)
    schema = described.take("schema")
    described.nothing_else()
    if not isinstance(schema, dict):
        raise described.fault("The field 'json_schema' must have a 'schema', which is an object.")
    return OutputFormat.json_schema(schema)

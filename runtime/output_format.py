"""What an answer must look like: a JSON schema, a regular expression, a list of choices, a grammar.

Rules: text alone, so that it travels in messages and files; whether it can be compiled is found out
by the model that is asked for it (constraint.py). Its size is limited, for it comes from outside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edgewise.common.errors import EdgewiseError

Kind = Literal["json", "regex", "choice", "lark"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FORMAT_MAX_BYTES = 64 << 10  # of a schema, an expression, a grammar, or all choices together
CHOICES_MAX = 1000


class FormatError(EdgewiseError):
    """A format of the output that can not be used."""


@dataclass(frozen=True)
class OutputFormat:
    """A constraint on an answer. Raises `FormatError` when it is too large or of no known kind.

    Attributes:
        kind: "json" (JSON Schema), "regex" (Rust's syntax, the whole answer must match), "choice"
            (the answer is one of some texts) or "lark" (a grammar in Lark's syntax).
        text: The schema, expression or grammar; of choices, a JSON list of texts.
    """

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FormatError(f"the format is {self.kind!r}; accepted: {', '.join(KINDS)}")
        try:
            size = len(self.text.encode())
        except UnicodeEncodeError as error:
            raise FormatError(
                f"the {self.kind} format holds half of a surrogate pair at {error.start}; give"
                " valid Unicode text"
            ) from error
        if not 0 < size <= FORMAT_MAX_BYTES:
            raise FormatError(
                f"the {self.kind} format has {size} bytes; accepted: 1 to {FORMAT_MAX_BYTES}"
            )

    @classmethod
    def json_schema(cls, schema: str | Mapping[str, Any]) -> OutputFormat:
        """Ask for JSON that a schema accepts.

        Args:
            schema: A JSON Schema, as text or parsed; an empty one accepts any JSON.

        Raises:
            FormatError: It is no JSON, or no object.
        """
        try:
            value = json.loads(schema) if isinstance(schema, str) else schema
            text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise FormatError(f"the schema is no JSON: {error}") from error
        if not isinstance(value, Mapping):
            raise FormatError(f"the schema is {text:.60}; accepted: a JSON object")
        return cls("json", text)

    @classmethod
    def regex(cls, expression: str) -> OutputFormat:
        """Ask for a text that an expression matches as a whole."""
        return cls("regex", expression)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> OutputFormat:
        """Ask for one of some texts.

        Raises:
            FormatError: There is none, there are too many, or one is no text or empty.
        """
        if isinstance(texts, str) or not 0 < len(texts) <= CHOICES_MAX:
            raise FormatError(f"the choices are {texts!r:.60}; accepted: 1 to {CHOICES_MAX} texts")
        if not all(isinstance(text, str) and text for text in texts):
            raise FormatError(
                f"the choices are {list(texts)!r:.60}; each must be a text with content"
            )
        return cls("choice", json.dumps(list(texts), ensure_ascii=False))

    @classmethod
    def lark(cls, grammar: str) -> OutputFormat:
        """Ask for a text that a Lark grammar accepts; its first rule is ``start``."""
        return cls("lark", grammar)

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts of a "choice"; of another kind, none."""
        return tuple(json.loads(self.text)) if self.kind == "choice" else ()

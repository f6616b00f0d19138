"""Reading the JSON of a request by OpenAI's conventions.

Workflow: `read_object` a body, wrap it in `RequestFields`, take the fields, call `nothing_else`.

Rules: null is as good as nothing. What has no meaning here is ignored where the answer is the same
without it (``user``, ``store``), taken where its value asks for nothing (``"tools": []``), and
refused otherwise: a client shall not believe that it got what it did not. Unknown fields are
refused as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from edgewise.common.strict_json import JsonError, decode_object
from edgewise.device.errors import WireError
from edgewise.device.fields import Fields
from edgewise.device.http.api_errors import FieldError, unsupported

MAX_DEPTH = 64  # open brackets; schemas are deep
IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# Fields of OpenAI's that there are not here, and values of them that ask for nothing.
ABSENT: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "audio": (),
        "best_of": (1,),
        "echo": (False,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "modalities": (["text"],),
        "prediction": (),
        "reasoning_effort": ("none",),
        "suffix": ("",),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "verbosity": ("medium",),
        "web_search_options": (),
    }
)


def read_object(content: bytes, *, max_bytes: int) -> dict[str, Any]:
    """Read the JSON object of a request.

    Args:
        content: The body.
        max_bytes: The largest body taken.

    Raises:
        WireError: It is too large (code 413) or no JSON object (code 400).
    """
    try:
        return decode_object(content, max_bytes=max_bytes, max_depth=MAX_DEPTH)
    except JsonError as error:
        code = 413 if error.too_large else 400
        raise WireError(f"The request is not usable: {error}.", code=code) from error


class RequestFields(Fields):
    """The fields of a request that have not been taken yet; faults carry the field's name."""

    def __init__(self, values: dict[str, Any], *, what: str = "request") -> None:
        """Wrap an object; ``what`` names it in errors."""
        super().__init__(
            {name: value for name, value in values.items() if value is not None}, what=what
        )

    def fault(self, sentence: str) -> FieldError:
        """Make the error for the field that was taken last."""
        return FieldError(sentence, field=self._known[-1] if self._known else "")

    def nested(self, value: Any, what: str) -> RequestFields:
        """Wrap an object found inside this one."""
        if not isinstance(value, dict):
            raise self.fault(f"Each item of {what!r} must be an object.")
        return RequestFields(value, what=what)

    def inner(self, name: str) -> RequestFields:
        """Take an object that has fields of its own."""
        value = self._required(name)
        if not isinstance(value, dict):
            raise self.fault(f"The field {name!r} must be an object.")
        return RequestFields(value, what=name)

    def refuse_absent(self) -> None:
        """Take what there is not here, and what has no meaning.

        Raises:
            ApiError: Something is asked for that is not done here.
        """
        for name in IGNORED:
            self._values.pop(name, None)
        for name, neutral in ABSENT.items():
            if name in self._values and name not in self._known:
                value = self._values.pop(name)
                if not any(value == known and type(value) is type(known) for known in neutral):
                    raise unsupported(
                        name, f"is {repr(value)[:60]}, which this server does not do; leave it out."
                    )

    def nothing_else(self) -> None:
        """Refuse what has not been taken.

        Raises:
            FieldError: There is something; the message lists what is known.
        """
        if self._values:
            name = min(self._values)
            raise FieldError(
                f"The {self._what} has the unknown field {name[:64]!r}; known: "
                f"{', '.join(sorted(set(self._known)))}.",
                field=name[:64],
            )

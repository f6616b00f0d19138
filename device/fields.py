"""Reading the fields of one message, each once, each checked; what is left over is refused.

Workflow: ``decode_message``, wrap the object, take the version, take the fields, call
``nothing_else``. Rules: a wrong type, a value outside its limits and an unknown field each give a
sentence that names the field, what was given and what is accepted. ``true`` is no number.
"""

from __future__ import annotations

from typing import Any

from edgewise.common.strict_json import JsonError, decode_object, encode_object
from edgewise.device.errors import WireError
from edgewise.device.topics import MAX_ID_LENGTH, is_request_id

VERSION = 1  # of every message on the wire
MAX_DEPTH = 64  # open brackets; a request needs three, and what its schema has


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def decode_message(payload: bytes, *, max_bytes: int) -> dict[str, Any]:
    """Read the JSON object of a message.

    Args:
        payload: The message's payload.
        max_bytes: The largest payload taken, in bytes.

    Raises:
        WireError: If it is too large (code 413) or no JSON object (code 400).
    """
    try:
        return decode_object(payload, max_bytes=max_bytes, max_depth=MAX_DEPTH)
    except JsonError as error:
        code = 413 if error.too_large else 400
        raise WireError(f"The message is not usable: {error}.", code=code) from error


def encode_message(**fields: Any) -> bytes:
    """Write a message's payload: its version and the fields that are not None."""
    given = {name: value for name, value in fields.items() if value is not None}
    return encode_object({"v": VERSION, **given})


class Fields:
    """The fields of one message that have not been taken yet."""

    def __init__(self, values: dict[str, Any], *, what: str) -> None:
        """Wrap ``values``; ``what`` names the message in errors ("request", "chunk", ...)."""
        self._values = dict(values)
        self._known: list[str] = []
        self._what = what
        identity = values.get("id")
        self._request_id = (
            identity if isinstance(identity, str) and is_request_id(identity) else None
        )

    def fault(self, sentence: str) -> WireError:
        """Make the error for this message, carrying its id where that can be read."""
        return WireError(sentence, request_id=self._request_id)

    def take(self, name: str) -> Any:
        """Take a field's value as it is, or None if it is absent or null."""
        self._known.append(name)
        return self._values.pop(name, None)

    def _required(self, name: str) -> Any:
        value = self.take(name)
        if value is None:
            raise self.fault(f"The {self._what} has no field {name!r}.")
        return value

    def version(self) -> None:
        """Take ``v``; only version 1 is spoken."""
        value = self._required("v")
        if isinstance(value, bool) or value != VERSION:
            raise self.fault(
                f"The {self._what} has the version {_shown(value)}; spoken is {VERSION}."
            )

    def identity(self) -> str:
        """Take ``id``."""
        self._required("id")
        if self._request_id is None:
            raise self.fault(f"The field 'id' must be 1 to {MAX_ID_LENGTH} of A-Z a-z 0-9 . _ : -.")
        return self._request_id

    def text(self, name: str, *, max_length: int, min_length: int = 0) -> str:
        """Take a string of ``min_length`` to ``max_length`` characters."""
        value = self._required(name)
        if not isinstance(value, str) or not min_length <= len(value) <= max_length:
            raise self.fault(
                f"The field {name!r} must be a string of {min_length} to {max_length} characters."
            )
        return value

    def optional_text(self, name: str, *, max_length: int, min_length: int = 0) -> str | None:
        """Take a string, or None if it is absent."""
        if self._is_absent(name):
            return None
        return self.text(name, max_length=max_length, min_length=min_length)

    def choice(self, name: str, accepted: tuple[str, ...]) -> str:
        """Take one of the ``accepted`` words."""
        value = self._required(name)
        if not isinstance(value, str) or value not in accepted:
            raise self.fault(
                f"The field {name!r} is {_shown(value)}; accepted: {', '.join(accepted)}."
            )
        return value

    def optional_choice(self, name: str, accepted: tuple[str, ...]) -> str | None:
        """Take one of the ``accepted`` words, or None if it is absent."""
        if self._is_absent(name):
            return None
        return self.choice(name, accepted)

    def integer(self, name: str, low: int, high: int) -> int:
        """Take a whole number from ``low`` to ``high``."""
        value = self._required(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fault(
                f"The field {name!r} is {_shown(value)}; "
                f"accepted: a whole number from {low} to {high}."
            )
        return value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """Take a whole number, or None if it is absent."""
        if self._is_absent(name):
            return None
        return self.integer(name, low, high)

    def number(self, name: str, low: float, high: float) -> float:
        """Take a number from ``low`` to ``high``."""
        value = self._required(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fault(f"The field {name!r} is {_shown(value)}; accepted: a number.")
        if not low <= value <= high:
            raise self.fault(
                f"The field {name!r} is {_shown(value)}; accepted: {low:g} to {high:g}."
            )
        return float(value)

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        """Take a number, or None if it is absent."""
        if self._is_absent(name):
            return None
        return self.number(name, low, high)

    def flag(self, name: str, *, default: bool) -> bool:
        """Take ``true`` or ``false``; ``default`` if it is absent."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fault(f"The field {name!r} is {_shown(value)}; accepted: true or false.")
        return value

    def items(self, name: str, *, max_length: int, may_be_empty: bool = False) -> list[Any]:
        """Take a list of 1 to ``max_length`` values, or an empty list if it is absent."""
        value = self.take(name)
        if value is None:
            return []
        least = 0 if may_be_empty else 1
        if not isinstance(value, list) or not least <= len(value) <= max_length:
            raise self.fault(f"The field {name!r} must be a list of {least} to {max_length} items.")
        return value

    def inner(self, name: str) -> Fields:
        """Take an object that has fields of its own."""
        value = self._required(name)
        if not isinstance(value, dict):
            raise self.fault(f"The field {name!r} must be an object.")
        return self.nested(value, name)

    def nested(self, value: Any, what: str) -> Fields:
        """Wrap an object found inside this message; errors in it carry this message's id."""
        if not isinstance(value, dict):
            raise self.fault(f"Each item of {what!r} must be an object.")
        fields = Fields(value, what=what)
        fields._request_id = self._request_id
        return fields

    def nothing_else(self) -> None:
        """Refuse whatever has not been taken."""
        if self._values:
            unknown = ", ".join(repr(name[:64]) for name in sorted(self._values))
            raise self.fault(
                f"The {self._what} has unknown fields: {unknown}; known: {', '.join(self._known)}."
            )

    def has(self, name: str) -> bool:
        """Tell whether a field is there and not null; it stays to be taken."""
        return self._values.get(name) is not None

    def _is_absent(self, name: str) -> bool:
        if self.has(name):
            return False
        self.take(name)
        return True


def read_message(payload: bytes, *, max_bytes: int, what: str) -> Fields:
    """Read a message and its version; its other fields are the caller's to take.

    Args:
        payload: The message's payload.
        max_bytes: The largest payload taken, in bytes.
        what: Names the message in errors.

    Raises:
        WireError: If it is no such message.
    """
    fields = Fields(decode_message(payload, max_bytes=max_bytes), what=what)
    fields.version()
    return fields

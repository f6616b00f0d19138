"""Typed access to the fields of a GGUF file, with one wording for what is missing or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from edgewise.exporter.checkpoint.errors import CheckpointError

Value = TypeVar("Value")


class GgufFields:
    """The fields of one file; each getter gives None for an absent field and checks the type."""

    def __init__(self, fields: Mapping[str, Any], file_name: str) -> None:
        self._fields = fields
        self.file_name = file_name

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def keys_under(self, prefix: str) -> list[str]:
        """The keys that begin with ``prefix``."""
        return [key for key in self._fields if key.startswith(prefix)]

    def required(self, value: Value | None, key: str) -> Value:
        """Refuse the absence of a value that was got by ``key``."""
        if value is None:
            raise CheckpointError(f"{self.file_name} has no field {key}, which its kind needs.")
        return value

    def text(self, key: str) -> str | None:
        """Get a string."""
        value = self._fields.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(key, "text")

    def flag(self, key: str) -> bool | None:
        """Get a boolean."""
        value = self._fields.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self._wrong(key, "true or false")

    def integer(self, key: str) -> int | None:
        """Get a number of 0 or more; an array of one and the same number counts too."""
        value = self._fields.get(key)
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._wrong(key, "a whole number (the same for all layers)")
        return value

    def number(self, key: str) -> float | None:
        """Get a float as the shortest decimal that is the same float32, as config.json has it."""
        value = self._fields.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number")
        with np.errstate(over="ignore"):  # a float64 may be too large; then it is refused
            single = np.float32(value)
        if not np.isfinite(single):
            raise self._wrong(key, "a finite number")
        return float(str(single))

    def texts(self, key: str) -> list[str] | None:
        """Get an array of strings."""
        return self._list(key, str, "an array of texts")

    def integers(self, key: str) -> list[int] | None:
        """Get an array of whole numbers."""
        return self._list(key, int, "an array of whole numbers")

    def numbers(self, key: str) -> list[float] | None:
        """Get an array of numbers as floats."""
        return self._list(key, float, "an array of numbers")

    def _list(self, key: str, kind: type[Value], accepted: str) -> list[Value] | None:
        value = self._fields.get(key)
        if value is None:
            return None
        if kind is float and isinstance(value, list):
            value = [float(entry) if type(entry) is int else entry for entry in value]
        if not isinstance(value, list) or not all(isinstance(entry, kind) for entry in value):
            raise self._wrong(key, accepted)
        return value

    def _wrong(self, key: str, accepted: str) -> CheckpointError:
        shown = repr(self._fields[key])[:80]
        return CheckpointError(f"{self.file_name} has {key} = {shown}; {accepted} is accepted.")

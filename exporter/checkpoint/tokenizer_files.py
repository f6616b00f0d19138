"""Reads the small files beside a tokenizer, and the texts of special tokens in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgewise.exporter.checkpoint.errors import CheckpointError


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; a file that is not there is an empty one.

    Raises:
        CheckpointError: It is no JSON, or no object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is no valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} must hold a JSON object.")
    return content


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, its line ends as they are.

    Raises:
        CheckpointError: It can not be read, or is no UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path.name} can not be read: {error}.") from error


def token_text(value: object, key: str) -> str | None:
    """Take a special token's text: a string, or an AddedToken written as an object.

    Raises:
        CheckpointError: It is neither.
    """
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is None or isinstance(value, str):
        return value
    raise CheckpointError(f"tokenizer_config.json has {key} = {value!r}; a string is accepted.")

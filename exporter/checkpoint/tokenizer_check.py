"""Loads a tokenizer JSON once, to prove that it loads and to see what plain encoding prepends."""

from __future__ import annotations

from tokenizers import Tokenizer

from edgewise.exporter.checkpoint.errors import CheckpointError


def loaded_tokenizer(tokenizer_json: str, where: str) -> Tokenizer:
    """Load a `tokenizers` JSON.

    Args:
        tokenizer_json: The whole JSON.
        where: The file or field that it came from, for the message.

    Raises:
        CheckpointError: The `tokenizers` library refuses it.
    """
    try:
        return Tokenizer.from_str(tokenizer_json)
    except Exception as error:
        raise CheckpointError(f"{where} is no valid tokenizer: {error}.") from error


def prepends(tokenizer: Tokenizer, beginning_token_id: int | None) -> bool:
    """Tell whether encoding a plain text begins with the beginning token."""
    identifiers = tokenizer.encode("a").ids
    return beginning_token_id is not None and identifiers[:1] == [beginning_token_id]

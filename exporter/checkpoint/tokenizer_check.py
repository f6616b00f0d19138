"""Loads a tokenizer JSON once, to prove that it loads and to see what it puts around texts."""

from __future__ import annotations

from typing import NamedTuple

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


class Framing(NamedTuple):
    """What plain encoding puts behind a text."""

    after: int | None  # the last id behind a text; None for nothing
    between: int  # ids that stand between two texts


def framing(tokenizer: Tokenizer) -> Framing:
    """See what plain encoding puts behind a text and between two, padding left out."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    single = tokenizer.encode("a")
    after = single.ids[-1] if single.special_tokens_mask[-1:] == [1] else None
    pair = tokenizer.encode("a", "a")
    second = pair.sequence_ids.index(1) if 1 in pair.sequence_ids else 0
    between = 0
    while second and pair.special_tokens_mask[second - 1 - between]:
        between += 1
    return Framing(after, between)


def prepends(tokenizer: Tokenizer, beginning_token_id: int | None) -> bool:
    """Tell whether encoding a plain text begins with the beginning token."""
    identifiers = tokenizer.encode("a").ids
    return beginning_token_id is not None and identifiers[:1] == [beginning_token_id]

"""Rebuilds the tokenizer of GGUF's kind ``gpt2``: byte-level BPE with merges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgewise.exporter.checkpoint.errors import CheckpointError
from edgewise.exporter.checkpoint.pre_tokenizers import SPLITS, Split
from edgewise.exporter.checkpoint.tokenizer_parts import (
    BYTE_LEVEL_DECODER,
    Vocabulary,
    byte_level_model,
    sequence_of,
    tokenizer_json,
)


def split_named(name: str | None) -> Split:
    """Find how text is split.

    Args:
        name: ``tokenizer.ggml.pre``; None in files older than the field.

    Raises:
        CheckpointError: The name is not known.
    """
    found = SPLITS.get(name or "default")
    if found is None:
        raise CheckpointError(
            f"The GGUF file's pre-tokenizer is {name!r} (tokenizer.ggml.pre); known are "
            f"{', '.join(sorted(SPLITS))}. Give the Hugging Face folder instead."
        )
    return found


def build_byte_level_bpe(
    vocabulary: Vocabulary,
    merges: Sequence[str],
    split: Split,
    post_processor: dict[str, Any] | None,
) -> str:
    """Write the `tokenizers` JSON.

    Args:
        vocabulary: The tokens; normal ones in byte-level spelling (a space is ``Ġ``).
        merges: Pairs by rank, each two tokens with a space between.
        split: How text is split before merging.
        post_processor: What is put around an encoded text; None for nothing.

    Raises:
        CheckpointError: A merge is not of two tokens.
    """
    pairs = []
    for rank, merge in enumerate(merges):
        left, space, right = merge.partition(" ")
        if not (left and space and right) or " " in right:
            raise CheckpointError(f"The GGUF file's merge {rank} is {merge!r}, which is no pair.")
        pairs.append([left, right])
    return tokenizer_json(
        added_tokens=vocabulary.added_tokens(),
        normalizer=split.normalizer,
        pre_tokenizer=sequence_of(split.steps, "pretokenizers"),
        post_processor=post_processor,
        decoder=BYTE_LEVEL_DECODER,
        model=byte_level_model(vocabulary.by_text(), pairs, ignore_merges=split.ignore_merges),
    )

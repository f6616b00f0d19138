"""Turns ``vocab.json`` and ``merges.txt`` into a `tokenizers` JSON: the byte-level BPE of GPT-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewise.exporter.checkpoint.added_tokens import AddedToken
from edgewise.exporter.checkpoint.errors import CheckpointError
from edgewise.exporter.checkpoint.pre_tokenizers import Split
from edgewise.exporter.checkpoint.tokenizer_parts import (
    BYTE_LEVEL_DECODER,
    byte_level_model,
    sequence_of,
    tokenizer_json,
)

VERSION_LINE = "#version"


def read_merges(text: str) -> list[list[str]]:
    """Give the pairs of ``merges.txt`` by rank; its first line may name a version.

    Raises:
        CheckpointError: A line is no pair.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    first = 1 if lines[0].startswith(VERSION_LINE) else 0
    pairs = []
    for number, line in enumerate(lines[first:], start=first + 1):
        if not line:
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise CheckpointError(f"merges.txt has {line!r} in line {number}, which is no pair.")
        pairs.append(parts)
    return pairs


def read_vocabulary(content: Mapping[str, Any]) -> dict[str, int]:
    """Check the content of ``vocab.json``: an id for each token.

    Raises:
        CheckpointError: A value is no id, or an id stands twice.
    """
    texts: dict[int, str] = {}
    for text, identifier in content.items():
        if isinstance(identifier, bool) or not isinstance(identifier, int) or identifier < 0:
            raise CheckpointError(
                f"vocab.json gives {text!r} the id {identifier!r}; a whole number is accepted."
            )
        if identifier in texts:
            raise CheckpointError(
                f"vocab.json gives the id {identifier} to {texts[identifier]!r} and {text!r}."
            )
        texts[identifier] = text
    return dict(content)


def build_vocabulary_and_merges(
    ids: Mapping[str, int],
    merges: list[list[str]],
    added: Mapping[int, AddedToken],
    split: Split,
    *,
    space_before_text: bool,
    post_processor: dict[str, Any] | None,
) -> str:
    """Write the `tokenizers` JSON.

    Args:
        ids: The id of each token, in byte-level spelling.
        merges: Pairs by rank.
        added: Tokens by id that are found in the text before it is split.
        split: How text is split before merging.
        space_before_text: Whether a text that begins without a space gets one.
        post_processor: What is put around an encoded text; None for nothing.
    """
    steps = [
        {**step, "add_prefix_space": space_before_text} if step["type"] == "ByteLevel" else step
        for step in split.steps
    ]
    return tokenizer_json(
        added_tokens=[added[identifier].as_json(identifier) for identifier in sorted(added)],
        normalizer=split.normalizer,
        pre_tokenizer=sequence_of(steps, "pretokenizers"),
        post_processor=post_processor,
        decoder=BYTE_LEVEL_DECODER,
        model=byte_level_model(
            {**ids, **{token.text: number for number, token in added.items()}},
            merges,
            ignore_merges=split.ignore_merges,
        ),
    )

"""The parts of a `tokenizers` JSON that the readers of all formats share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from edgewise.exporter.checkpoint.added_tokens import AddedToken
from edgewise.exporter.checkpoint.errors import CheckpointError

BYTE_LEVEL_DECODER: Mapping[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": True,
    "use_regex": True,
}


class TokenKind(IntEnum):
    """SentencePiece's ``Type``; GGUF's ``tokenizer.ggml.token_type`` has the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a GGUF file or a SentencePiece model."""

    texts: Sequence[str]
    kinds: Sequence[int]

    def by_text(self) -> dict[str, int]:
        """Give the id of each text, without what the conversion put in to fill the embedding.

        Raises:
            CheckpointError: Two tokens have the same text.
        """
        ids: dict[str, int] = {}
        for identifier, text in enumerate(self.texts):
            if self.kinds[identifier] == TokenKind.UNUSED and text == f"[PAD{identifier}]":
                continue
            if text in ids:
                raise CheckpointError(
                    f"The vocabulary has {text!r} twice, as tokens {ids[text]} and {identifier}."
                )
            ids[text] = identifier
        return ids

    def added_tokens(self) -> list[dict[str, Any]]:
        """Give the tokens that are found in the text before it is split or merged."""
        special = {TokenKind.CONTROL, TokenKind.UNKNOWN}
        return [
            AddedToken(text, special=kind in special).as_json(identifier)
            for identifier, (text, kind) in enumerate(zip(self.texts, self.kinds, strict=True))
            if text and (kind in special or kind == TokenKind.USER_DEFINED)
        ]


def byte_level_model(
    ids: Mapping[str, int], merges: Sequence[Sequence[str]], *, ignore_merges: bool
) -> dict[str, Any]:
    """Give the model of a byte-level BPE, in which every byte has a token.

    Args:
        ids: The id of each token.
        merges: Pairs by rank.
        ignore_merges: Whether a word that is a token stays whole although no pairs make it.
    """
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": ids,
        "merges": merges,
    }


def prepend_processor(token: str, identifier: int) -> dict[str, Any]:
    """Give the post-processor that puts one token before a text."""
    before = {"SpecialToken": {"id": token, "type_id": 0}}

    def sequence(name: str, type_id: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": type_id}}

    return {
        "type": "TemplateProcessing",
        "single": [before, sequence("A", 0)],
        "pair": [before, sequence("A", 0), before, sequence("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [identifier], "tokens": [token]}},
    }


def frame_processor(
    before: tuple[str, int] | None, after: tuple[str, int] | None, *, between: int = 1
) -> dict[str, Any]:
    """Give the post-processor that puts tokens around a text, or around two.

    Args:
        before: Text and id of what comes first; None for nothing.
        after: Text and id of what stands behind each text; None for nothing.
        between: How many of ``after`` stand between two texts.
    """

    def special(token: tuple[str, int] | None, type_id: int, count: int = 1) -> list[Any]:
        return (
            []
            if token is None
            else [{"SpecialToken": {"id": token[0], "type_id": type_id}}] * count
        )

    def text(name: str, type_id: int) -> list[Any]:
        return [{"Sequence": {"id": name, "type_id": type_id}}]

    return {
        "type": "TemplateProcessing",
        "single": [*special(before, 0), *text("A", 0), *special(after, 0)],
        "pair": [
            *special(before, 0),
            *text("A", 0),
            *special(after, 0, between),
            *text("B", 1),
            *special(after, 1),
        ],
        "special_tokens": {
            token: {"id": token, "ids": [identifier], "tokens": [token]}
            for token, identifier in filter(None, (before, after))
        },
    }


def sequence_of(steps: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Join steps, named ``key`` in the JSON, into one; a single one stands for itself."""
    return dict(steps[0]) if len(steps) == 1 else {"type": "Sequence", key: list(steps)}


def tokenizer_json(
    *,
    added_tokens: list[dict[str, Any]],
    normalizer: dict[str, Any] | None,
    pre_tokenizer: dict[str, Any] | None,
    post_processor: dict[str, Any] | None,
    decoder: Mapping[str, Any],
    model: dict[str, Any],
) -> str:
    """Write the parts as one `tokenizers` JSON."""
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added_tokens,
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor,
            "decoder": decoder,
            "model": model,
        },
        ensure_ascii=False,
    )

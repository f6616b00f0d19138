"""Rebuilds the tokenizer of GGUF's kind ``llama``: SentencePiece BPE with scores.

SentencePiece merges the adjacent pair whose joined piece has the best score, the leftmost first.
`tokenizers` merges by rank of the pair. So the pairs are ranked by the score of what they make:
every way to cut a piece in two pieces is a merge, as transformers converts it. The two agree on a
trained vocabulary, which has each character of its pieces and a score of its own for each; they may
differ where one piece can be made of different pairs at the same time, overlapping. Characters
outside the vocabulary fall back to byte tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgewise.exporter.checkpoint.tokenizer_parts import (
    TokenKind,
    Vocabulary,
    sequence_of,
    tokenizer_json,
)

SPACE = "▁"
_MERGED = frozenset({TokenKind.NORMAL, TokenKind.UNUSED})


def merges_by_score(vocabulary: Vocabulary, scores: Sequence[float]) -> list[list[str]]:
    """Give every pair of pieces whose joining is a piece, the best score first.

    Args:
        vocabulary: The pieces.
        scores: The score of each piece; higher merges earlier.

    Returns:
        Pairs by rank. Pairs that make pieces of equal score stand in the order of the pieces' ids,
        pairs that make the same piece in the order of their parts' ids.
    """
    ids = {
        text: identifier
        for text, identifier in vocabulary.by_text().items()
        if vocabulary.kinds[identifier] in _MERGED
    }
    ranked = []
    for text, identifier in ids.items():
        for cut in range(1, len(text)):
            left, right = ids.get(text[:cut]), ids.get(text[cut:])
            if left is not None and right is not None:
                ranked.append((-scores[identifier], identifier, left, right))
    ranked.sort()
    return [[vocabulary.texts[left], vocabulary.texts[right]] for _, _, left, right in ranked]


def build_sentence_piece(
    vocabulary: Vocabulary,
    scores: Sequence[float],
    *,
    unknown_token: str | None,
    space_prefix: bool,
    post_processor: dict[str, Any] | None,
) -> str:
    """Write the `tokenizers` JSON.

    Args:
        vocabulary: The pieces, with ``▁`` for a space and ``<0x00>`` to ``<0xFF>`` for bytes.
        scores: The score of each piece.
        unknown_token: What stands for a character that has no piece and no bytes.
        space_prefix: Whether a space is put before the text.
        post_processor: What is put around an encoded text; None for nothing.
    """
    prepend = [{"type": "Prepend", "prepend": SPACE}] if space_prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space_prefix else []
    return tokenizer_json(
        added_tokens=vocabulary.added_tokens(),
        normalizer=sequence_of(
            [*prepend, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}],
            "normalizers",
        ),
        pre_tokenizer=None,
        post_processor=post_processor,
        decoder=sequence_of(
            [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
            "decoders",
        ),
        model={
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": TokenKind.BYTE in vocabulary.kinds,
            "ignore_merges": False,
            "vocab": vocabulary.by_text(),
            "merges": merges_by_score(vocabulary, scores),
        },
    )

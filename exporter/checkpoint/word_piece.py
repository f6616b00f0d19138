"""Turns BERT's ``vocab.txt`` into a `tokenizers` JSON: WordPiece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewise.exporter.checkpoint.added_tokens import AddedToken
from edgewise.exporter.checkpoint.errors import CheckpointError
from edgewise.exporter.checkpoint.tokenizer_parts import tokenizer_json

CONTINUES = "##"  # before a piece that does not begin a word
LONGEST_WORD = 100  # characters; a longer one is the unknown token


def read_word_list(text: str) -> dict[str, int]:
    """Give the id of each piece: the number of its line, from 0; of equal lines the last counts."""
    # Other line ends may stand within a piece, as in the original reader.
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    return {line: number for number, line in enumerate(lines)}


def build_word_piece(
    ids: Mapping[str, int],
    added: Mapping[int, AddedToken],
    *,
    unknown: str,
    lowercase: bool,
    strip_accents: bool | None,
    split_chinese: bool,
    post_processor: dict[str, Any] | None,
) -> str:
    """Write the `tokenizers` JSON.

    Args:
        ids: The id of each piece.
        added: Tokens by id that are found in the text before it is split.
        unknown: What stands for a word that no pieces make up.
        lowercase: Whether the text is written in small letters first.
        strip_accents: Whether accents go; None: as ``lowercase``.
        split_chinese: Whether each Chinese character is a word.
        post_processor: What is put around an encoded text; None for nothing.

    Raises:
        CheckpointError: The unknown token is not in the vocabulary.
    """
    if unknown not in ids:
        raise CheckpointError(f"vocab.txt lacks the unknown token {unknown!r}.")
    return tokenizer_json(
        added_tokens=[added[identifier].as_json(identifier) for identifier in sorted(added)],
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": split_chinese,
            "strip_accents": strip_accents,
            "lowercase": lowercase,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=post_processor,
        decoder={"type": "WordPiece", "prefix": CONTINUES, "cleanup": True},
        model={
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": CONTINUES,
            "max_input_chars_per_word": LONGEST_WORD,
            "vocab": {**ids, **{token.text: number for number, token in added.items()}},
        },
    )

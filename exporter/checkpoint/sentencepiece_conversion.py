"""Turns a SentencePiece model into a `tokenizers` JSON that gives the same ids.

BPE becomes ranked merges (``sentence_piece.py``), unigram stays a table of scores. Normalization
becomes steps: the model's character map, its rule on spaces, the space before the text, ``▁``.

Rules: that space comes once, before the whole text, as SentencePiece puts it; only T5 and what asks
for transformers' ``legacy`` rule get one behind each added token too. Before a token that begins
the text there is none if it is special, as in the slow classes of transformers 4. To know the
beginning of the text, the step looks at the text before it is cut at added tokens, so these are
marked to be found after normalization. Text that only looks like a control or byte piece never
becomes one: BPE can not reach such a piece, and for unigram, whose search knows all pieces, it is
cut apart before.
Known differences: a text that is one added token and nothing else goes without the space. Of
`tokenizers`' own: its character map loses a combining mark behind a character that the map changes
(``½`` with an Indic vowel sign) and, where spaces are not joined, the line feed of a Windows line
end; unigram scores are summed in double precision, so that ties of repeated patterns may fall
otherwise.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from edgewise.exporter.checkpoint.added_tokens import AddedToken
from edgewise.exporter.checkpoint.errors import CheckpointError
from edgewise.exporter.checkpoint.sentence_piece import SPACE, merges_by_score
from edgewise.exporter.checkpoint.sentencepiece_model import Algorithm, SentencePieceModel
from edgewise.exporter.checkpoint.tokenizer_parts import (
    TokenKind,
    Vocabulary,
    sequence_of,
    tokenizer_json,
)

_NAMED = frozenset({TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.USER_DEFINED})


def convert_sentencepiece(
    model: SentencePieceModel,
    added: Mapping[int, AddedToken],
    *,
    space_in_each_part: bool,
    post_processor: dict[str, Any] | None,
    spaced: Collection[str] = (),
) -> str:
    """Write the `tokenizers` JSON.

    Args:
        model: The model file's content.
        added: Tokens by id besides the model's own; ids behind its pieces follow without a gap.
        space_in_each_part: Put a space behind each added token too, not only before the text.
        post_processor: What is put around an encoded text; None for nothing.
        spaced: Texts of added tokens that have the space before them where they begin a text.

    Raises:
        CheckpointError: The model is of a kind that has no equal in `tokenizers`.
    """
    _check(model, added)
    vocabulary = Vocabulary(model.pieces, model.kinds)
    tokens = {
        identifier: AddedToken(text, special=kind is not TokenKind.USER_DEFINED)
        for identifier, (text, kind) in enumerate(zip(model.pieces, model.kinds, strict=True))
        if kind in _NAMED
    } | dict(added)
    prefix: list[dict[str, Any]] = []
    if model.space_prefix and space_in_each_part:
        prefix = [{"type": "Prepend", "prepend": SPACE}]
    elif model.space_prefix:
        prefix = [_space_before_text(model, tokens, spaced)]
        tokens = {key: replace(token, normalized=True) for key, token in tokens.items()}
    return tokenizer_json(
        added_tokens=[tokens[identifier].as_json(identifier) for identifier in sorted(tokens)],
        normalizer=sequence_of(
            [*_character_map(model), *_single_spaces(model), *prefix, _replaced(" ", SPACE)],
            "normalizers",
        ),
        pre_tokenizer=_apart(model),
        post_processor=post_processor,
        decoder=_decoder(model),
        model=_bpe(model, vocabulary) if model.algorithm is Algorithm.BPE else _unigram(model),
    )


def sentinels(count: int, first_id: int) -> dict[int, AddedToken]:
    """Give T5's ``<extra_id_0>`` and so on, whose ids descend to ``first_id``."""
    return {
        first_id + count - 1 - number: AddedToken(f"<extra_id_{number}>") for number in range(count)
    }


def _check(model: SentencePieceModel, added: Mapping[int, AddedToken]) -> None:
    problem = None
    if model.algorithm not in {Algorithm.UNIGRAM, Algorithm.BPE}:
        problem = f"its algorithm is {model.algorithm.name.lower()}; bpe and unigram are accepted"
    elif not model.spaces_escaped or model.spaces_after_words:
        problem = "it does not write the space before a word as ▁"
    elif model.algorithm is Algorithm.UNIGRAM and TokenKind.UNUSED in model.kinds:
        problem = "it is a unigram model with unused pieces"
    if problem:
        raise CheckpointError(f"The SentencePiece model can not be converted: {problem}.")
    behind = sorted(identifier for identifier in added if identifier >= len(model.pieces))
    if behind != list(range(len(model.pieces), len(model.pieces) + len(behind))):
        raise CheckpointError(
            f"The added tokens have the ids {behind[0]} to {behind[-1]} with a gap, or do not "
            f"follow the {len(model.pieces)} pieces of the SentencePiece model."
        )


def _space_before_text(
    model: SentencePieceModel, tokens: Mapping[int, AddedToken], spaced: Collection[str]
) -> dict[str, Any]:
    """Give the step that puts ``▁`` before a text unless a special token begins it.

    The texts of added tokens go through the same steps and must stay what they are, so one that is
    spaced goes without where nothing follows it. SentencePiece does put the space before a
    user-defined piece.
    """
    own = {
        text
        for text, kind in zip(model.pieces, model.kinds, strict=True)
        if kind is TokenKind.USER_DEFINED
    }
    own.update(spaced)
    texts = [token.text for token in tokens.values() if token.text]
    begins = [re.escape(text) for text in texts if text not in own]
    alone = [re.escape(text) for text in texts if text in own]
    ends = rf"(?:{'|'.join(alone)})?\z" if alone else r"\z"
    pattern = rf"\A(?!{'|'.join([*begins, ends])})"
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": SPACE}


def _character_map(model: SentencePieceModel) -> list[dict[str, Any]]:
    if not model.character_map:
        return []
    encoded = base64.b64encode(model.character_map).decode()
    return [{"type": "Precompiled", "precompiled_charsmap": encoded}]


def _single_spaces(model: SentencePieceModel) -> list[dict[str, Any]]:
    if not model.single_spaces:
        return []
    return [
        {"type": "Replace", "pattern": {"Regex": rf"\A +|[ {SPACE}]+\z"}, "content": ""},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ]


def _replaced(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _apart(model: SentencePieceModel) -> dict[str, Any] | None:
    """Give the step that cuts texts of pieces that only added tokens or bytes may give."""
    if model.algorithm is not Algorithm.UNIGRAM:
        return None
    hidden = {TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.BYTE}
    texts = [
        text
        for text, kind in zip(model.pieces, model.kinds, strict=True)
        if kind in hidden and len(text) > 1
    ]
    pattern = "|".join(f"{re.escape(text[0])}(?={re.escape(text[1:])})" for text in texts)
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }


def _decoder(model: SentencePieceModel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [_replaced(SPACE, " ")]
    if model.byte_fallback:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if model.space_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return sequence_of(steps, "decoders")


def _bpe(model: SentencePieceModel, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[model.unknown_id],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": vocabulary.by_text(),
        "merges": merges_by_score(vocabulary, model.scores),
    }


def _unigram(model: SentencePieceModel) -> dict[str, Any]:
    return {
        "type": "Unigram",
        "unk_id": model.unknown_id,
        "vocab": [list(pair) for pair in zip(model.pieces, model.scores, strict=True)],
        "byte_fallback": model.byte_fallback,
    }

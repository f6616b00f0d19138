"""SentencePiece models are read whole, and converted to tokenizers of the same ids."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgewise.exporter.checkpoint import CheckpointError
from edgewise.exporter.checkpoint.added_tokens import AddedToken
from edgewise.exporter.checkpoint.sentencepiece_conversion import convert_sentencepiece
from edgewise.exporter.checkpoint.sentencepiece_model import (
    Algorithm,
    SentencePieceModel,
    parse_sentencepiece_model,
    read_sentencepiece_model,
)
from edgewise.exporter.checkpoint.tokenizer_parts import TokenKind
from edgewise.exporter.probes import PROBE_TEXTS

CORPUS = [line for line in Path(__file__).read_text().splitlines() if line.strip()]
CORPUS += [text for text in PROBE_TEXTS if text]
KINDS = [
    {"model_type": kind, "byte_fallback": fallback, "normalization_rule_name": rule}
    | {"remove_extra_whitespaces": single, "add_dummy_prefix": prefix}
    for kind, fallback, rule, (single, prefix) in itertools.product(
        ("bpe", "unigram"),
        (True, False),
        ("identity", "nmt_nfkc"),
        ((True, True), (False, True), (False, False)),
    )
]


@functools.cache
def trained(number: int) -> bytes:
    """Train a tiny model of one of KINDS."""
    file = io.BytesIO()
    kind = KINDS[number]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=file,
        vocab_size=600 if kind["byte_fallback"] else 320,
        user_defined_symbols=["<tool>"],
        pad_id=3,
        minloglevel=3,
        **kind,
    )
    return file.getvalue()


def converted(model: SentencePieceModel, added: Any = None) -> Tokenizer:
    return Tokenizer.from_str(
        convert_sentencepiece(model, added or {}, space_in_each_part=False, post_processor=None)
    )


def reference(number: int) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=trained(number))


@pytest.mark.parametrize("number", [0, len(KINDS) - 1])
def test_a_model_is_read_whole(number: int, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained(number))
    model = read_sentencepiece_model(tmp_path / "tokenizer.model")
    processor = reference(number)
    ids = range(processor.get_piece_size())
    assert model.pieces == tuple(map(processor.id_to_piece, ids))
    assert model.scores == tuple(map(processor.get_score, ids))
    assert [kind is TokenKind.CONTROL for kind in model.kinds] == [*map(processor.is_control, ids)]
    assert [kind is TokenKind.BYTE for kind in model.kinds] == [*map(processor.is_byte, ids)]
    assert model.unknown_id == processor.unk_id() == 0
    kind = KINDS[number]
    assert model.algorithm is Algorithm[str(kind["model_type"]).upper()]
    assert model.byte_fallback is kind["byte_fallback"]
    assert model.single_spaces is kind["remove_extra_whitespaces"]
    assert model.space_prefix is kind["add_dummy_prefix"]
    assert bool(model.character_map) is (kind["normalization_rule_name"] == "nmt_nfkc")
    assert model.spaces_escaped
    assert not model.spaces_after_words


@pytest.mark.parametrize(
    "number", range(len(KINDS)), ids=lambda number: str(KINDS[number].values())
)
def test_ids_are_those_of_sentencepiece(number: int) -> None:
    tokenizer = converted(parse_sentencepiece_model(trained(number)))
    tokenizer.encode_special_tokens = True
    processor = reference(number)
    # Where spaces are not joined, the two of a Windows line end are a known difference.
    texts = [text.replace("\r\n", "\n") for text in PROBE_TEXTS] + CORPUS[:80]
    texts += ["x<tool> y<tool>  z", "a<s> </s><unk> <0x41> ▁▁a ▁", "  ", "Ａｱﾞ ﬁ ½ 한 한"]
    for text in texts:
        assert tokenizer.encode(text).ids == processor.encode(text), text


@settings(max_examples=400, deadline=None)
@given(
    number=st.integers(0, len(KINDS) - 1),
    text=st.text(alphabet="abcdefT the in 12.,<>/s()é字▁ﬁ½\t\n", max_size=30),
)
def test_any_text_gives_the_ids_of_sentencepiece(number: int, text: str) -> None:
    # A text that begins with the text of an added token goes without the space before it.
    assume(not text.strip(" \t\n").startswith(("<tool>", "<s>", "</s>")))
    tokenizer = converted(parse_sentencepiece_model(trained(number)))
    tokenizer.encode_special_tokens = True
    assert tokenizer.encode(text).ids == reference(number).encode(text)


def test_the_space_comes_once_before_the_whole_text() -> None:
    number = next(index for index, kind in enumerate(KINDS) if kind["model_type"] == "bpe")
    model = parse_sentencepiece_model(trained(number))
    size = len(model.pieces)
    added = {size: AddedToken("<|user|>"), size + 1: AddedToken("<|a b|>", special=False)}
    tokenizer = converted(model, added)
    number_of = dict(zip(model.pieces, range(size), strict=True))
    alone = converted(dataclasses.replace(model, space_prefix=False)).encode("import").ids
    assert number_of["▁import"] not in alone
    ids = tokenizer.encode("import</s>import").ids
    assert ids == [*reference(number).encode("import"), 2, *alone]
    for text, first in (("<|user|>import", size), ("<|a b|>import", size + 1), ("</s>import", 2)):
        ids = tokenizer.encode(text).ids
        assert ids == [first, *alone]
    spaced = Tokenizer.from_str(
        convert_sentencepiece(
            model, added, space_in_each_part=False, post_processor=None, spaced=["<|user|>"]
        )
    )
    space = number_of["▁"]
    assert spaced.encode("<|user|>import").ids == [space, size, *alone]
    assert spaced.encode("<|a b|>import").ids == [size + 1, *alone]
    assert spaced.encode("<|user|>").ids == [size]
    legacy = Tokenizer.from_str(
        convert_sentencepiece(model, added, space_in_each_part=True, post_processor=None)
    )
    ids = legacy.encode("<|user|>import").ids
    assert ids == [size, *legacy.encode("import").ids]


@pytest.mark.parametrize("content", [b"", b"\x08", b"\xff" * 20, b"\x0a\x05ab", b"\x0b", b"{}"])
def test_what_is_no_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is no SentencePiece model: "):
        read_sentencepiece_model(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="can not be read: No such file"):
        read_sentencepiece_model(path)


@settings(max_examples=300, deadline=None)
@given(cut=st.floats(0, 1), damage=st.tuples(st.floats(0, 1), st.integers(0, 255)))
def test_damage_is_an_error_or_changes_what_is_read(cut: float, damage: tuple[float, int]) -> None:
    whole = trained(0)
    with_damage = bytearray(whole[: int(cut * len(whole))])
    if with_damage:
        with_damage[int(damage[0] * (len(with_damage) - 1))] = damage[1]
    try:
        model = parse_sentencepiece_model(bytes(with_damage))
    except ValueError:
        return
    assert model.pieces


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": Algorithm.WORD}, "its algorithm is word; bpe and unigram are accepted"),
        ({"spaces_escaped": False}, "does not write the space before a word"),
        ({"spaces_after_words": True}, "does not write the space before a word"),
        ({"kinds": (TokenKind.UNUSED,)}, "unigram model with unused pieces"),
    ],
)
def test_models_without_an_equal_are_refused(changes: dict[str, Any], message: str) -> None:
    model = SentencePieceModel(
        Algorithm.UNIGRAM, ("<unk>",), (0.0,), (TokenKind.UNKNOWN,), b"", True, True, True, False,
        False,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=message):
        converted(SentencePieceModel(**{**vars(model), **changes}))

"""Reads a SentencePiece model file: pieces, scores and how text is normalized.

The file is one protocol buffer (``sentencepiece_model.proto``), of which a few fields are needed.
They are read here, for the package's own reader works only with the very release of protobuf that
it was made by (docs/adr/0010). Rules: what the reader does not understand it skips, as protocol
buffers want it; a field of a wrong kind or a file that ends too early is an error.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from edgewise.exporter.checkpoint.errors import CheckpointError
from edgewise.exporter.checkpoint.tokenizer_parts import TokenKind

FILE_LIMIT = 64 * 1024 * 1024  # bytes; Gemma's, with 256,000 pieces, has 4
VARINT_LIMIT = 10  # bytes


class Algorithm(IntEnum):
    """``TrainerSpec.ModelType``."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHARACTER = 4


@dataclass(frozen=True)
class SentencePieceModel:
    """What of a model file decides on the ids of a text.

    Attributes:
        algorithm: How pieces are chosen.
        pieces: Texts by id, with ``▁`` for a space.
        scores: Of each piece.
        kinds: Of each piece.
        character_map: Rules of normalization, as `tokenizers` takes them; empty for none.
        space_prefix: Whether a space is put before the text.
        single_spaces: Whether spaces at the ends go, and several become one.
        spaces_escaped: Whether spaces are written as ``▁``.
        spaces_after_words: Whether ``▁`` ends a word instead of beginning one.
        byte_fallback: Whether bytes stand for a character without a piece.
    """

    algorithm: Algorithm
    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[TokenKind, ...]
    character_map: bytes
    space_prefix: bool
    single_spaces: bool
    spaces_escaped: bool
    spaces_after_words: bool
    byte_fallback: bool

    @property
    def unknown_id(self) -> int:
        """The piece that stands for what has none."""
        return self.kinds.index(TokenKind.UNKNOWN)


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """Read a ``tokenizer.model`` or ``spiece.model``.

    Raises:
        CheckpointError: The file can not be read, is damaged, or is no SentencePiece model.
    """
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise CheckpointError(
                f"{path.name} has {path.stat().st_size} bytes; at most {FILE_LIMIT} are read."
            )
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} can not be read: {error.strerror}.") from error
    try:
        return parse_sentencepiece_model(content)
    except ValueError as error:
        raise CheckpointError(f"{path.name} is no SentencePiece model: {error}.") from error


def parse_sentencepiece_model(content: bytes) -> SentencePieceModel:
    """Read the bytes of a model file.

    Raises:
        ValueError: They are damaged, or no SentencePiece model.
    """
    pieces: list[tuple[str, float, TokenKind]] = []
    trainer: dict[int, int] = {}
    normalizer: dict[int, int] = {}
    character_map = b""
    for number, value in _fields(content):
        if number == 1:
            pieces.append(_piece(_bytes(value)))
        elif number == 2:
            trainer |= _integers(_bytes(value))
        elif number == 3:
            for inner, setting in _fields(_bytes(value)):
                if inner == 2:
                    character_map = _bytes(setting)
            normalizer |= _integers(_bytes(value))
    if sum(kind is TokenKind.UNKNOWN for _, _, kind in pieces) != 1:
        raise ValueError(f"of its {len(pieces)} pieces not exactly one is the unknown one")
    return SentencePieceModel(
        algorithm=Algorithm(trainer.get(3, Algorithm.UNIGRAM)),
        pieces=tuple(text for text, _, _ in pieces),
        scores=tuple(score for _, score, _ in pieces),
        kinds=tuple(kind for _, _, kind in pieces),
        character_map=character_map,
        space_prefix=bool(normalizer.get(3, True)),
        single_spaces=bool(normalizer.get(4, True)),
        spaces_escaped=bool(normalizer.get(5, True)),
        spaces_after_words=bool(trainer.get(24, False)),
        byte_fallback=bool(trainer.get(35, False)),
    )


def _piece(content: bytes) -> tuple[str, float, TokenKind]:
    text, score, kind = "", 0.0, TokenKind.NORMAL
    for number, value in _fields(content):
        if number == 1:
            text = _bytes(value).decode()
        elif number == 2:
            score = _float(_bytes(value))
        elif number == 3:
            kind = TokenKind(_integer(value))
    return text, score, kind


def _integers(content: bytes) -> dict[int, int]:
    return {number: value for number, value in _fields(content) if isinstance(value, int)}


def _integer(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("a field holds bytes where a number belongs")  # noqa: TRY004 - of the file
    return value


def _float(value: bytes) -> float:
    if len(value) != 4:
        raise ValueError(f"a score has {len(value)} bytes instead of 4")
    return float(struct.unpack("<f", value)[0])


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a field holds a number where bytes belong")  # noqa: TRY004 - of the file
    return value


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Give the number and value of each field: an int for a varint, else the bytes."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(content, position)
            yield number, value
            continue
        if wire == 2:
            length, position = _varint(content, position)
        elif wire in {1, 5}:
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"field {number} is of the unknown kind {wire}")
        if position + length > len(content):
            raise ValueError(f"it ends within field {number}")
        yield number, content[position : position + length]
        position += length


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(VARINT_LIMIT):
        if position + index >= len(content):
            raise ValueError("it ends within a number")
        byte = content[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError("a number has more than 10 bytes")

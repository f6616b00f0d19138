"""Parses the header of a GGUF file: its fields and where each tensor lies.

The format: magic, version, counts, key/value fields, tensor entries, then the aligned data
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). The `gguf` package's ``GGUFReader``
makes one array object for every token and merge, which costs seconds and over a hundred megabytes
for a usual vocabulary, and loops without end on a damaged count; so the header is read here, and
the package decodes the blocks. Rules: every length is checked against the file before it is used; a
damaged file is a CheckpointError that says where.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgewise.exporter.checkpoint.errors import CheckpointError, listed
from edgewise.exporter.checkpoint.gguf_blocks import BLOCKS, Block, type_name
from edgewise.exporter.checkpoint.mapped_file import MappedFile

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32  # bytes
KEY_LIMIT = 65535  # bytes, of the format
RANK_LIMIT = 4  # axes, of the format

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
            10: "<Q", 11: "<q", 12: "<d"}  # fmt: skip
_STRING, _ARRAY = 8, 9
_SMALLEST_FIELD = 8 + 4 + 1  # bytes: an empty key, its type, one byte
_SMALLEST_TENSOR = 8 + 4 + 4 + 8  # bytes: an empty name, no axis, its type, its offset


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies, by its GGUF name."""

    name: str
    shape: tuple[int, ...]  # row-major: the reverse of the file's order
    block: Block
    offset: int  # bytes from the start of the file


@dataclass(frozen=True)
class GgufHeader:
    """The fields by key, with lists for arrays, and the tensors by GGUF name."""

    fields: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]


class _Cursor:
    """Reads forward through a map; it never reads past the end."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.position = 0

    def take(self, size: int, what: str) -> int:
        """Step over ``size`` bytes and return where they begin."""
        start = self.position
        if size > self.file.size - start:
            raise self.damaged(f"{what} needs {size} bytes at byte {start}, which are past the end")
        self.position = start + size
        return start

    def damaged(self, problem: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file.path.name} is damaged or cut short: {problem} "
            f"(the file has {self.file.size} bytes). Fetch the file again."
        )

    def scalar(self, code: str, what: str) -> Any:
        start = self.take(struct.calcsize(code), what)
        return struct.unpack_from(code, self.file.buffer, start)[0]

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.scalar("<Q", what)
        if limit is not None and length > limit:
            raise self.damaged(f"{what} would have {length} bytes, at most {limit} are allowed")
        start = self.take(length, what)
        try:
            return str(self.file.buffer[start : start + length], "utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged(f"{what} is no UTF-8") from error

    def count(self, what: str, smallest: int) -> int:
        """Read how many entries follow, each of which takes at least ``smallest`` bytes."""
        count: int = self.scalar("<Q", what)
        if count * smallest > self.file.size - self.position:
            raise self.damaged(f"{what} is {count}, more than the file could hold")
        return count

    def value(self, kind: int, key: str) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind], key)
        if kind == _STRING:
            return self.string(key)
        if kind == _ARRAY:
            return self.array(key)
        raise self.damaged(f"{key} has the unknown type {kind}")

    def array(self, key: str) -> list[Any]:
        kind = self.scalar("<I", key)
        if kind == _STRING:
            return [self.string(key) for _ in range(self.count(key, 8))]
        if kind not in _SCALARS:
            raise self.damaged(f"{key} is an array of the type {kind}, which is not read")
        code = _SCALARS[kind]
        size = struct.calcsize(code)
        count = self.count(key, size)
        start = self.take(count * size, key)
        return list(struct.unpack_from(f"<{count}{code[1]}", self.file.buffer, start))


def read_header(file: MappedFile) -> GgufHeader:
    """Read the fields and tensor entries of a GGUF file and check them against its size.

    Args:
        file: The mapped file.

    Raises:
        CheckpointError: It is no GGUF file, is damaged, or has tensors of types not accepted.
    """
    cursor = _Cursor(file)
    if bytes(file.buffer[:4]) != MAGIC:
        raise CheckpointError(
            f"{file.path.name} is no GGUF file: it begins with {bytes(file.buffer[:4])!r}."
        )
    cursor.position = 4
    version = cursor.scalar("<I", "the version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        given = f"version {version}" if swapped not in VERSIONS else "big-endian byte order"
        raise CheckpointError(
            f"{file.path.name} is GGUF of {given}; little-endian of version "
            f"{' or '.join(map(str, VERSIONS))} is read. Convert it again with a current llama.cpp."
        )
    tensor_count = cursor.count("the number of tensors", _SMALLEST_TENSOR)
    field_count = cursor.count("the number of fields", _SMALLEST_FIELD)
    fields: dict[str, Any] = {}
    for _ in range(field_count):
        key = cursor.string("a field's key", KEY_LIMIT)
        if key in fields:
            raise cursor.damaged(f"the field {key} appears twice")
        fields[key] = cursor.value(cursor.scalar("<I", key), key)
    raw_entries = [_read_tensor_entry(cursor) for _ in range(tensor_count)]
    alignment = fields.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise cursor.damaged(f"general.alignment is {alignment!r}, no power of two")
    data_start = cursor.position + -cursor.position % alignment
    tensors = {entry.name: entry for entry in _placed(cursor, raw_entries, data_start, alignment)}
    if len(tensors) != len(raw_entries):
        raise cursor.damaged("a tensor's name appears twice")
    file.release(0, cursor.position)
    return GgufHeader(fields, tensors)


def _read_tensor_entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Return name, shape, type and the offset within the data."""
    name = cursor.string("a tensor's name", KEY_LIMIT)
    rank = cursor.scalar("<I", name)
    if rank > RANK_LIMIT:
        raise cursor.damaged(f"tensor {name} has {rank} axes, at most {RANK_LIMIT} are allowed")
    axes = [cursor.scalar("<Q", name) for _ in range(rank)]
    kind = cursor.scalar("<I", name)
    return name, tuple(reversed(axes)), kind, cursor.scalar("<Q", name)


def _placed(
    cursor: _Cursor,
    raw_entries: list[tuple[str, tuple[int, ...], int, int]],
    data_start: int,
    alignment: int,
) -> Iterator[TensorEntry]:
    """Check each tensor's type and place; give the entries in the order of the file's data."""
    foreign = [
        f"{name} ({type_name(kind)})" for name, _, kind, _ in raw_entries if kind not in BLOCKS
    ]
    if foreign:
        raise CheckpointError(
            f"{cursor.file.path.name} stores tensors in types that are not read: "
            f"{listed(foreign, most=5)}. "
            f"Accepted are {', '.join(block.name for block in BLOCKS.values())}."
        )
    free_from = data_start
    for name, shape, kind, relative in sorted(raw_entries, key=lambda entry: entry[3]):
        block = BLOCKS[kind]
        if not shape or shape[-1] % block.values:
            raise cursor.damaged(
                f"tensor {name} of shape {list(shape)} does not fill blocks of {block.values}"
            )
        size = math.prod(shape) // block.values * block.size
        offset = data_start + relative
        if relative % alignment or offset < free_from:
            raise cursor.damaged(f"tensor {name} begins within another or off the alignment")
        if offset + size > cursor.file.size:
            raise cursor.damaged(f"tensor {name} ends at byte {offset + size}, past the end")
        free_from = offset + size
        yield TensorEntry(name, shape, block, offset)

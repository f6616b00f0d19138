"""Reads safetensors files row by row, out of a memory map.

The format: eight bytes give the length of a JSON header, little-endian; the header maps each name
to its type, shape and byte range; the data follows, without gap or overlap
(https://github.com/huggingface/safetensors#format). Rules: nothing in the header is believed before
it is checked against the file; a file that breaks the format is refused whole, naming the break.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.checkpoint.checkpoint import checked_rows
from edgewise.exporter.checkpoint.errors import CheckpointError
from edgewise.exporter.checkpoint.mapped_file import MappedFile

HEADER_LIMIT = 100_000_000  # bytes; the limit of the format's own reader
RANK_LIMIT = 8  # axes

BYTES_PER_VALUE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
DECODED_TYPES = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class SafetensorsTensor:
    """A lazy handle on one tensor of a safetensors file."""

    name: str
    shape: tuple[int, ...]
    stored_type: str
    file: MappedFile
    offset: int  # bytes from the start of the file

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Decode the rows ``start:stop`` of axis 0 to float32; a scalar counts as one row."""
        rows, *row_shape = self.shape or (1,)
        start, stop = checked_rows(rows, start, stop)
        if self.stored_type not in DECODED_TYPES:
            raise CheckpointError(
                f"Tensor {self.name} in {self.file.path.name} is stored as {self.stored_type}; "
                f"weights are read from {', '.join(DECODED_TYPES)}. "
                "Give the unquantized checkpoint."
            )
        bytes_per_row = math.prod(row_shape) * BYTES_PER_VALUE[self.stored_type]
        raw = self.file.copy(
            self.offset + start * bytes_per_row, self.offset + stop * bytes_per_row
        )
        values = _decode(raw, self.stored_type)
        return values.reshape(self.shape and (stop - start, *row_shape))

    def read_blocks(
        self,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        """Give None: safetensors hold no quantization blocks."""
        return


def _decode(raw: NDArray[np.uint8], stored_type: str) -> NDArray[np.float32]:
    """Turn little-endian bytes into float32, exactly (F64 is rounded)."""
    if stored_type == "BF16":  # the upper half of a float32
        return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    code = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}[stored_type]
    return raw.view(code).astype(np.float32, copy=False)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice")
    return result


def _parse_header(file: MappedFile) -> tuple[dict[str, Any], int]:
    """Return the header's entries and the offset of the data."""
    name = file.path.name
    if file.size < 8:
        raise CheckpointError(f"{name} is cut short: {file.size} bytes hold no safetensors header.")
    length = int.from_bytes(file.buffer[:8], "little")
    if length > HEADER_LIMIT:
        raise CheckpointError(
            f"{name} is no safetensors file: its header would have {length} bytes, "
            f"at most {HEADER_LIMIT} are accepted."
        )
    if 8 + length > file.size:
        raise CheckpointError(
            f"{name} is cut short: its header needs {8 + length} bytes, the file has {file.size}. "
            "Fetch the file again."
        )
    try:
        header = json.loads(
            bytes(file.buffer[8 : 8 + length]).decode("utf-8"),
            object_pairs_hook=_without_duplicates,
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} has a damaged safetensors header: {error}.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{name} has a damaged safetensors header: it is no JSON object.")
    header.pop("__metadata__", None)
    return header, 8 + length


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _checked_entry(
    file_name: str, name: str, entry: object
) -> tuple[str, tuple[int, ...], int, int]:
    """Return type, shape, first byte and end byte of a header entry."""
    where = f"{file_name}: the entry of tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} must have exactly dtype, shape and data_offsets.")
    stored_type, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(stored_type, str) or stored_type not in BYTES_PER_VALUE:
        raise CheckpointError(
            f"{where} has the type {stored_type!r}; known are {', '.join(BYTES_PER_VALUE)}."
        )
    if not isinstance(shape, list) or len(shape) > RANK_LIMIT or not all(map(_is_count, shape)):
        raise CheckpointError(f"{where} has no valid shape: {str(shape)[:200]}.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise CheckpointError(f"{where} has no valid data_offsets: {str(offsets)[:200]}.")
    begin, end = offsets
    needed = math.prod(shape) * BYTES_PER_VALUE[stored_type]
    if end - begin != needed:
        raise CheckpointError(
            f"{where} gives {end - begin} bytes; {stored_type} {shape} needs {needed}."
        )
    return stored_type, tuple(shape), begin, end


def open_safetensors(path: Path) -> tuple[MappedFile, dict[str, SafetensorsTensor]]:
    """Map a safetensors file and check its header whole.

    Args:
        path: The file.

    Returns:
        The map, for the caller to close, and a lazy handle for each tensor.

    Raises:
        CheckpointError: The file is missing, cut short or breaks the format.
    """
    file = MappedFile(path)
    try:
        return file, _tensors_of(file)
    except CheckpointError:
        file.close()
        raise


def _tensors_of(file: MappedFile) -> dict[str, SafetensorsTensor]:
    header, data_start = _parse_header(file)
    entries = {name: _checked_entry(file.path.name, name, entry) for name, entry in header.items()}
    expected = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != expected:
            problem = "overlaps the one before" if begin < expected else "leaves a gap before it"
            raise CheckpointError(
                f"{file.path.name} has a damaged header: tensor {name!r} at byte {begin} {problem}."
            )
        expected = end
    if data_start + expected != file.size:
        raise CheckpointError(
            f"{file.path.name} is damaged or cut short: its tensors end at byte "
            f"{data_start + expected}, the file has {file.size} bytes. Fetch the file again."
        )
    return {
        name: SafetensorsTensor(name, shape, stored_type, file, data_start + begin)
        for name, (stored_type, shape, begin, _) in entries.items()
    }

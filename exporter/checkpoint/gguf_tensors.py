"""Lazy handles on the tensors of a GGUF file, under Hugging Face's names and in its order of rows.

llama.cpp rotates neighbouring pairs of a head's values, Hugging Face pairs half a head apart, so
the conversion to GGUF reorders the rows of llama's query and key projections. Here the order is
undone by row, for decoded values and for raw blocks alike: no value is changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.checkpoint.checkpoint import checked_rows
from edgewise.exporter.checkpoint.errors import CheckpointError
from edgewise.exporter.checkpoint.gguf_blocks import Block, decode_rows
from edgewise.exporter.checkpoint.mapped_file import MappedFile


@dataclass(frozen=True)
class GgufTensor:
    """A lazy handle on one tensor of a GGUF file."""

    name: str
    shape: tuple[int, ...]
    block: Block
    file: MappedFile
    offset: int  # bytes from the start of the file
    rotated_head_size: int | None = None  # rows of a head, if they stand in llama.cpp's order

    @property
    def stored_type(self) -> str:
        """The block type's name."""
        return self.block.name

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Decode the rows ``start:stop`` of axis 0 to float32."""
        start, stop = checked_rows(self.shape[0], start, stop)
        if len(self.shape) == 1:
            return self._read_vector(start, stop)
        decoded = decode_rows(self._raw_rows(start, stop), self.block)
        return decoded.reshape(stop - start, *self.shape[1:])

    def read_blocks(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8] | None:
        """Give the raw blocks of the rows ``start:stop``.

        None for F32, F16 and BF16, and for a vector, whose rows are less than a block.
        """
        if not self.block.quantized or len(self.shape) == 1:
            return None
        start, stop = checked_rows(self.shape[0], start, stop)
        return self._raw_rows(start, stop)

    def rows(self, name: str, start: int, stop: int) -> GgufTensor:
        """Return rows of it as a tensor of its own.

        Raises:
            CheckpointError: They do not begin and end with whole blocks.
        """
        values = math.prod(self.shape[1:])
        if values * start % self.block.values or values * stop % self.block.values:
            raise CheckpointError(
                f"{self.file.path.name}: rows {start}:{stop} of {self.name} are no whole blocks."
            )
        offset = self.offset + values * start // self.block.values * self.block.size
        return GgufTensor(name, (stop - start, *self.shape[1:]), self.block, self.file, offset)

    def _read_vector(self, start: int, stop: int) -> NDArray[np.float32]:
        """A vector's elements are its rows, and a block may hold many of them: decode it whole."""
        size = self.shape[0] // self.block.values * self.block.size
        raw = self.file.copy(self.offset, self.offset + size)
        values = decode_rows(raw[np.newaxis], self.block)[0]
        return np.take(values, self._stored_rows(start, stop))

    def _stored_rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Where the rows ``start:stop`` of Hugging Face's order stand in the file."""
        rows = np.arange(start, stop)
        if self.rotated_head_size is None:
            return rows
        head, row = np.divmod(rows, self.rotated_head_size)
        half, pair = np.divmod(row, self.rotated_head_size // 2)
        return np.asarray(head * self.rotated_head_size + pair * 2 + half)

    def _raw_rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Copy rows of blocks, in Hugging Face's order."""
        row_size = math.prod(self.shape[1:]) // self.block.values * self.block.size
        stored = self._stored_rows(start, stop)
        first, end = (int(stored.min()), int(stored.max()) + 1) if start < stop else (0, 0)
        raw = self.file.copy(self.offset + first * row_size, self.offset + end * row_size)
        raw = raw.reshape(end - first, row_size)
        return raw if self.rotated_head_size is None else raw[stored - first]

"""Weights that are made of another one as they are read: nothing is copied or kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.quantize.streaming import CHUNK_BYTES, WeightSource


@dataclass(frozen=True)
class RowsOf:
    """The rows ``first:end`` of axis 0 of another source."""

    whole: WeightSource
    first: int
    end: int

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``WeightSource``."""
        return (self.end - self.first, *self.whole.shape[1:])

    @property
    def stored_type(self) -> str:
        """See ``WeightSource``."""
        return self.whole.stored_type

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """See ``WeightSource``."""
        return self.whole.read(*self._within(start, stop))

    def read_blocks(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8] | None:
        """See ``WeightSource``."""
        return self.whole.read_blocks(*self._within(start, stop))

    def _within(self, start: int, stop: int | None) -> tuple[int, int]:
        rows = self.end - self.first
        end = rows if stop is None else stop
        if not 0 <= start <= end <= rows:
            raise ValueError(f"rows {start}:{end} are not within the {rows} rows of the part")
        return self.first + start, self.first + end


@dataclass(frozen=True)
class Computed:
    """The base of what has numbers of its own, made of another source's as they are read.

    A subclass has the ``read`` of a ``WeightSource``, and another shape where it is not the same.
    """

    whole: WeightSource

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``WeightSource``."""
        return self.whole.shape

    @property
    def stored_type(self) -> str:
        """See ``WeightSource``."""
        return "F32"

    def read_blocks(self, start: int = 0, stop: int | None = None) -> None:
        """Give None: no stored block holds these numbers, or holds them in this order."""
        del start, stop


@dataclass(frozen=True)
class MatrixOf(Computed):
    """The rows of another source as one matrix, [rows, columns], zeros behind what they hold.

    A convolution whose squares do not overlap is such a matrix on the numbers of each square.
    """

    columns: int  # at least as many as a row of the other holds numbers

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``WeightSource``."""
        return (self.whole.shape[0], self.columns)

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """See ``WeightSource``."""
        rows = self.whole.read(start, stop)
        flat = rows.reshape(len(rows), -1)
        return np.pad(flat, ((0, 0), (0, self.columns - flat.shape[1])))


@dataclass(frozen=True)
class FlatOf:
    """All numbers of another source as one vector; read whole, so for small ones."""

    whole: WeightSource

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``WeightSource``."""
        return (math.prod(self.whole.shape),)

    @property
    def stored_type(self) -> str:
        """See ``WeightSource``."""
        return self.whole.stored_type

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """See ``WeightSource``."""
        return self.whole.read().reshape(-1)[start:stop]

    def read_blocks(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8] | None:
        """See ``WeightSource``; a vector has no blocks."""
        return None


@dataclass(frozen=True)
class Shifted(Computed):
    """Another source with a number added everywhere, in float32."""

    number: float

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """See ``WeightSource``."""
        shifted: NDArray[np.float32] = self.whole.read(start, stop) + np.float32(self.number)
        return shifted


@dataclass(frozen=True)
class Transposed(Computed):
    """Another matrix with its axes swapped.

    Rows of this one are columns of that, which is read a few rows at a time, whole for each call.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``WeightSource``."""
        rows, columns = self.whole.shape
        return (columns, rows)

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """See ``WeightSource``."""
        rows, columns = self.whole.shape
        end = columns if stop is None else stop
        if not 0 <= start <= end <= columns:
            raise ValueError(f"rows {start}:{end} are not within the {columns} rows of the matrix")
        result = np.empty((end - start, rows), np.float32)
        step = max(1, CHUNK_BYTES // (4 * columns))
        for chunk in range(math.ceil(rows / step)):
            first, last = chunk * step, min((chunk + 1) * step, rows)
            result[:, first:last] = self.whole.read(first, last)[:, start:end].T
        return result

"""The weights file beside an ONNX graph, written as the weights stream by.

Workflow: ``add`` appends an array and gives the TensorProto that points at it; ``view`` points at
bytes that are already there under another shape (a tied head and its embedding are the same bytes
read as two matrices); ``add_transposed`` fills columns chunk by chunk. Several graphs may share a
file: a name that is there already is not written again. Rules: every tensor begins at a multiple of
64 bytes and large ones at a page, so that a runtime can map them; nothing is kept in memory once
written. Format: onnx/docs/ExternalData.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx
from numpy.typing import NDArray

PAGE = 4096  # bytes; alignment of tensors of at least one page
SMALL_ALIGNMENT = 64  # bytes; a cache line


@dataclass(frozen=True)
class StoredTensor:
    """Where an array lies in the weights file."""

    offset: int  # bytes
    nbytes: int


class WeightFile:
    """An append-only file of raw little-endian arrays."""

    def __init__(self, path: Path) -> None:
        """Create the file.

        Args:
            path: Where it is written; its name is what the graph refers to.
        """
        self._path = path
        self._stream = path.open("w+b")
        self._end = 0
        self._places: dict[str, StoredTensor] = {}

    def __enter__(self) -> WeightFile:
        """Use as a context manager: closed when the block ends."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Flush and close."""
        self._stream.close()

    @property
    def nbytes(self) -> int:
        """Bytes written, padding included."""
        return self._end

    def add(self, name: str, array: NDArray[np.generic]) -> tuple[onnx.TensorProto, StoredTensor]:
        """Append an array and return the initializer that refers to it."""
        stored, is_new = self._place(name, array.nbytes)
        if is_new:
            self._stream.seek(stored.offset)
            np.ascontiguousarray(array).tofile(self._stream)
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        return self.view(name, stored, array.shape, kind), stored

    def add_chunks(
        self,
        name: str,
        chunks: Iterable[NDArray[np.generic]],
        shape: tuple[int, ...],
        dtype: np.dtype[np.generic],
    ) -> tuple[onnx.TensorProto, StoredTensor]:
        """Append an array that comes in pieces along axis 0."""
        stored, is_new = self._place(name, int(np.prod(shape)) * dtype.itemsize)
        if is_new:
            self._stream.seek(stored.offset)
            for chunk in chunks:
                np.ascontiguousarray(chunk, dtype=dtype).tofile(self._stream)
            if self._stream.tell() != stored.offset + stored.nbytes:
                raise ValueError(f"the pieces of {name!r} do not make up shape {shape}")
        return self.view(name, stored, shape, onnx.helper.np_dtype_to_tensor_dtype(dtype)), stored

    def add_transposed(
        self,
        name: str,
        chunks: Iterable[NDArray[np.generic]],
        shape: tuple[int, int],
        dtype: np.dtype[np.generic],
    ) -> tuple[onnx.TensorProto, StoredTensor]:
        """Append the transpose of a matrix that comes in pieces along axis 0.

        Args:
            name: The initializer's name.
            chunks: Pieces [rows, K] of the matrix [N, K].
            shape: The transposed shape (K, N).
            dtype: Element type of the file.
        """
        stored, is_new = self._place(name, shape[0] * shape[1] * dtype.itemsize)
        if is_new:
            self._write_transposed(name, chunks, stored, shape, dtype)
        return self.view(name, stored, shape, onnx.helper.np_dtype_to_tensor_dtype(dtype)), stored

    def view(
        self, name: str, stored: StoredTensor, shape: tuple[int, ...], kind: int
    ) -> onnx.TensorProto:
        """Return an initializer of this shape and type over bytes that are already written."""
        proto = onnx.TensorProto(name=name, data_type=kind, dims=shape)
        proto.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", self._path.name),
            ("offset", str(stored.offset)),
            ("length", str(stored.nbytes)),
        ):
            entry = proto.external_data.add()
            entry.key, entry.value = key, value
        return proto

    def _write_transposed(
        self,
        name: str,
        chunks: Iterable[NDArray[np.generic]],
        stored: StoredTensor,
        shape: tuple[int, int],
        dtype: np.dtype[np.generic],
    ) -> None:
        self._stream.flush()
        target = np.memmap(
            self._path, dtype=dtype, mode="r+", offset=stored.offset, shape=shape, order="C"
        )
        start = 0
        for chunk in chunks:
            stop = start + len(chunk)
            if stop <= shape[1]:
                target[:, start:stop] = chunk.T
            start = stop
        if start != shape[1]:
            raise ValueError(f"the pieces of {name!r} do not make up shape {shape}")
        target.flush()

    def _place(self, name: str, nbytes: int) -> tuple[StoredTensor, bool]:
        """Return where a tensor lies, and whether it has yet to be written there."""
        if name in self._places:
            place = self._places[name]
            if place.nbytes != nbytes:
                raise ValueError(f"{name!r} is written with {place.nbytes} bytes, not {nbytes}")
            return place, False
        self._places[name] = self._reserve(nbytes)
        return self._places[name], True

    def _reserve(self, nbytes: int) -> StoredTensor:
        alignment = PAGE if nbytes >= PAGE else SMALL_ALIGNMENT
        offset = -(-self._end // alignment) * alignment
        self._end = offset + nbytes
        os.ftruncate(self._stream.fileno(), self._end)
        return StoredTensor(offset, nbytes)

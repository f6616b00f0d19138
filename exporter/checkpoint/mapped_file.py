"""A read-only memory map that gives copies of byte ranges and lets their pages go again.

Pages of a mapped file count as resident memory once touched. A checkpoint is larger than the
memory that an export may take, so each range is copied out and its pages are handed back at once:
what stays resident is what the caller holds. Nothing here knows a format.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.checkpoint.errors import CheckpointError


class MappedFile:
    """One file, mapped for reading."""

    def __init__(self, path: Path) -> None:
        """Map ``path``.

        Raises:
            CheckpointError: The file is missing, unreadable or empty.
        """
        self.path = path
        try:
            with path.open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # mmap refuses a length of zero
            raise CheckpointError(f"{path.name} is empty; fetch the file again.") from error
        except OSError as error:
            raise CheckpointError(f"{path} can not be read: {error.strerror}.") from error
        self.size = len(self._map)  # bytes

    @property
    def buffer(self) -> mmap.mmap:
        """The map itself, for parsers that unpack in place and keep no view of it."""
        return self._map

    def copy(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Copy the bytes ``start:stop`` and release the pages behind them.

        Args:
            start: Offset of the first byte.
            stop: Offset past the last byte; within the file, as the format's parser has checked.

        Returns:
            The bytes, uint8 [stop - start], owned by the caller.
        """
        copied = np.frombuffer(self._map, np.uint8, stop - start, start).copy()
        self.release(start, stop)
        return copied

    def release(self, start: int, stop: int) -> None:
        """Hand the pages that hold ``start:stop`` back to the kernel; they can be read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            first_page = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, first_page, stop - first_page)

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()

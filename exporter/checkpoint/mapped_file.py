"""A file whose header is parsed in a memory map, and whose tensors are read as copies.

Pages of a mapped file count as resident memory once touched, and the kernel maps others around
them, up to whole megabytes where it caches the file in large pieces. A checkpoint is larger than
the memory that an export may take, so ranges are read, not touched in the map: what stays resident
is what the caller holds. Nothing here knows a format. Rule: one thread reads at a time.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.checkpoint.errors import CheckpointError


class MappedFile:
    """One file, open for reading."""

    def __init__(self, path: Path) -> None:
        """Map ``path``.

        Raises:
            CheckpointError: The file is missing, unreadable or empty.
        """
        self.path = path
        try:
            self._stream = path.open("rb", buffering=0)
        except OSError as error:
            raise CheckpointError(f"{path} can not be read: {error.strerror}.") from error
        try:
            self._map = mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # mmap refuses a length of zero
            self._stream.close()
            raise CheckpointError(f"{path.name} is empty; fetch the file again.") from error
        except OSError as error:
            self._stream.close()
            raise CheckpointError(f"{path} can not be mapped: {error.strerror}.") from error
        self.size = len(self._map)  # bytes

    @property
    def buffer(self) -> mmap.mmap:
        """The map itself, for parsers that unpack in place and keep no view of it."""
        return self._map

    def copy(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read the bytes ``start:stop``.

        Args:
            start: Offset of the first byte.
            stop: Offset past the last byte; within the file, as the format's parser has checked.

        Returns:
            The bytes, uint8 [stop - start], owned by the caller.

        Raises:
            CheckpointError: The file was cut short, or can not be read any more.
        """
        copied = np.empty(stop - start, np.uint8)
        left = copied.data
        try:
            self._stream.seek(start)
            while left:
                count = self._stream.readinto(left)
                if not count:
                    raise CheckpointError(
                        f"{self.path.name} became shorter while it was read; fetch the file again."
                    )
                left = left[count:]
        except OSError as error:
            raise CheckpointError(f"{self.path} can not be read: {error.strerror}.") from error
        return copied

    def release(self, start: int, stop: int) -> None:
        """Hand the pages that hold ``start:stop`` back to the kernel; they can be read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            first_page = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, first_page, stop - first_page)

    def close(self) -> None:
        """Unmap and close the file."""
        self._map.close()
        self._stream.close()

"""Arrays whose memory is taken page by page, and given back while the array stays usable.

The pages of a large allocation are taken as they are written and stay taken. On Linux,
``madvise(MADV_DONTNEED)`` drops the content of whole anonymous pages, which read as zeros from then
on (man 2 madvise). Elsewhere nothing is given back, and the array is only zeroed.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DONT_NEED = 4  # MADV_DONTNEED on Linux, on every architecture but alpha


def lazy_zeros(shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    """Return zeros, each page of which takes memory once it is written to.

    numpy asks for huge pages in arrays of 4 MiB and more (MADV_HUGEPAGE of madvise(2)), so that the
    first token of a long context would take 2 MiB for each head; these arrays ask for none.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < mmap.PAGESIZE or not sys.platform.startswith("linux"):
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel that was built without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)


def release_pages(array: NDArray[Any]) -> None:
    """Zero an array and drop the pages that lie in it.

    Args:
        array: C-contiguous, in anonymous memory that nobody else reads.
    """
    if not array.flags.c_contiguous:
        raise ValueError("pages can be released of a contiguous array only")
    raw = array.reshape(-1).view(np.uint8)
    start = -raw.ctypes.data % mmap.PAGESIZE
    length = (len(raw) - start) // mmap.PAGESIZE * mmap.PAGESIZE
    if length <= 0 or not sys.platform.startswith("linux"):
        raw[:] = 0
        return
    raw[:start] = 0
    raw[start + length :] = 0
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if advise(raw.ctypes.data + start, length, _DONT_NEED) != 0:
        raw[start : start + length] = 0

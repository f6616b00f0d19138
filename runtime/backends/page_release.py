"""Gives the memory of an array back to the system while the array stays usable.

The pages of a large allocation are taken as they are written and stay taken. On Linux,
``madvise(MADV_DONTNEED)`` drops the content of whole anonymous pages, which read as zeros from then
on (man 2 madvise). Elsewhere nothing is given back, and the array is only zeroed.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DONT_NEED = 4  # MADV_DONTNEED on Linux, on every architecture but alpha


def release_pages(array: NDArray[Any]) -> None:
    """Zero an array and drop the pages that lie in it.

    Args:
        array: C-contiguous, in anonymous memory that nobody else reads: what numpy allocated.
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

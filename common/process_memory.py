"""What memory this process holds, as the kernel counts it.

Peak RSS is what a board must have; anonymous RSS is what it can not page back from a file.
`give_freed_memory_back` makes the latter small again after work that needed much of it for a while.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path


def peak_rss_bytes() -> int:
    """Return the largest resident set this program has had, in bytes.

    On Linux it is proc(5)'s VmHWM: getrusage(2) also counts what the process that started this
    one held, for a child begins as its copy. Elsewhere it is getrusage's.
    """
    peak = _status_field_bytes("VmHWM")
    if peak is not None:
        return peak
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def _status_field_bytes(field: str) -> int | None:
    """Read one ``kB`` field of /proc/self/status; None where the kernel has none."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None


def anonymous_rss_bytes() -> int | None:
    """Return the resident memory with no file behind it, in bytes; None off Linux."""
    return _status_field_bytes("RssAnon")


def current_rss_bytes() -> int | None:
    """Return the resident set of this moment, in bytes; None off Linux."""
    return _status_field_bytes("VmRSS")


def give_freed_memory_back() -> None:
    """Let the C library return pages that nothing lies on; it keeps them for later otherwise.

    Takes a few milliseconds. Does nothing where the C library is not glibc (malloc_trim(3)).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)

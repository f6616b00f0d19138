"""Whether the machine is quiet enough to time something, by /proc/stat.

A figure that was taken while something else ran says nothing, and nobody remembers it later: so a
benchmark waits, and what it measured on a machine that never became quiet is marked.
"""

from __future__ import annotations

import time
from pathlib import Path

IDLE_SHARE = 0.93  # of all cores
LOOK_SECONDS = 1.0


def wait_until_quiet(patience: float) -> float:
    """Wait until the machine is idle.

    Args:
        patience: Seconds to wait at most.

    Returns:
        The share of idle time in the last second; below `IDLE_SHARE` if patience ended.
    """
    end = time.monotonic() + patience
    while True:
        idle, total = _times()
        time.sleep(LOOK_SECONDS)
        idle_after, total_after = _times()
        share = (idle_after - idle) / max(1, total_after - total)
        if share >= IDLE_SHARE or time.monotonic() > end:
            return share


def _times() -> tuple[int, int]:
    """Return idle time and all time, in clock ticks; what a hypervisor takes is not idle."""
    first = Path("/proc/stat").read_text().splitlines()[0]
    fields = [int(field) for field in first.split()[1:9]]
    return fields[3] + fields[4], sum(fields)

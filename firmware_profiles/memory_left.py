"""How much memory this process can still take, as the kernel and its control groups tell.

Rules: what could be reclaimed at once counts as left, file pages among it: weights that are mapped
from a file are no reason to refuse anything. The least of system and groups is what counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgewise.firmware_profiles.cpuinfo import cgroup_folders, parse_cgroup_limit, parse_meminfo
from edgewise.firmware_profiles.detect import read_text

_ROOT = Path("/")
_LIMIT_AND_USAGE = (
    ("memory.max", "memory.current", ""),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),  # v1 counts children apart
)
_RECLAIMABLE = ("inactive_file", "active_file")  # lines of memory.stat


def memory_left(root: Path = _ROOT) -> int | None:
    """Return what this process can take before the system, or a group it is in, has no more.

    Args:
        root: The folder that /proc and /sys are read below; for tests.

    Returns:
        Bytes, at least 0; None where the system does not tell.
    """
    total, available = parse_meminfo(read_text(root / "proc/meminfo"))
    left = [available] if total else []
    return min([*left, *_left_in_groups(root)], default=None)


def _left_in_groups(root: Path) -> Iterator[int]:
    folders = cgroup_folders(read_text(root / "proc/self/cgroup"), "memory") or [""]
    for folder in (root / "sys/fs/cgroup" / name for name in folders):
        for limit_file, usage_file, prefix in _LIMIT_AND_USAGE:
            limit = parse_cgroup_limit(read_text(folder / limit_file))
            usage = read_text(folder / usage_file).strip()
            if limit is None or not usage.isdigit():
                continue
            used = int(usage) - _reclaimable(read_text(folder / "memory.stat"), prefix)
            yield max(0, limit - max(0, used))


def _reclaimable(text: str, prefix: str) -> int:
    names = {prefix + name for name in _RECLAIMABLE}
    fields = (line.split() for line in text.splitlines())
    return sum(int(pair[1]) for pair in fields if len(pair) == 2 and pair[0] in names)

"""The memory that is left: of the system, and of every group that the process is in."""

from pathlib import Path

import pytest

from edgewise.firmware_profiles.memory_left import memory_left

MEMINFO = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  600 kB\n"


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_groups_it_is_what_the_system_has(tmp_path: Path) -> None:
    assert memory_left(lay_out(tmp_path, {"proc/meminfo": MEMINFO})) == 600 * 1024


def test_where_nothing_tells_it_is_unknown(tmp_path: Path) -> None:
    assert memory_left(tmp_path) is None


@pytest.mark.parametrize(
    ("stat", "expected"),
    [
        ("anon 5000\ninactive_file 30000\nactive_file 20000\n", 300_000 - 250_000 + 50_000),
        ("anon 5000\n", 50_000),
        ("inactive_file 900000\n", 300_000),
    ],
)
def test_a_group_that_has_less_left_counts(tmp_path: Path, stat: str, expected: int) -> None:
    root = lay_out(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/boards/agent\n",
            "sys/fs/cgroup/boards/agent/memory.max": "max\n",
            "sys/fs/cgroup/boards/agent/memory.current": "250000\n",
            "sys/fs/cgroup/boards/memory.max": "300000\n",
            "sys/fs/cgroup/boards/memory.current": "250000\n",
            "sys/fs/cgroup/boards/memory.stat": stat,
        },
    )
    assert memory_left(root) == expected


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/agent\n",
            "sys/fs/cgroup/memory/agent/memory.limit_in_bytes": "1000\n",
            "sys/fs/cgroup/memory/agent/memory.usage_in_bytes": "5000\n",
            "sys/fs/cgroup/memory/agent/memory.stat": "total_inactive_file 100\n",
        },
    )
    assert memory_left(root) == 0


def test_this_machine_has_some_left() -> None:
    left = memory_left()
    assert left is None or left > 0

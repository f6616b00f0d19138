"""Finds out what this machine is.

Workflow: `detect_machine()` reads /proc, /sys and /etc below a root folder (macOS: sysctl; Android:
getprop), the pure functions of cpuinfo.py read the texts. `physical_cores()` is the runtime's
default number of threads. Rules: never fails: what can not be read is unknown, zero or None.
"""

from __future__ import annotations

import math
import os
import platform
import sys
from pathlib import Path

from edgewise.firmware_profiles.cpuinfo import (
    CpuInfo,
    cgroup_folders,
    cpuinfo_of_sysctl,
    parse_cgroup_limit,
    parse_cpu_quota,
    parse_cpuinfo,
    parse_device_tree_model,
    parse_getprop,
    parse_meminfo,
    parse_os_release,
    parse_sysctl,
)
from edgewise.firmware_profiles.machine import Machine

TOOL_TIMEOUT = 5  # seconds for sysctl or getprop
_ROOT = Path("/")


def read_text(path: Path) -> str:
    """Return a file's text, or nothing when it does not exist or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output_of(*command: str) -> str:
    import subprocess  # noqa: PLC0415 - 0.7 MiB that no Linux board needs

    try:
        finished = subprocess.run(
            command, capture_output=True, check=False, timeout=TOOL_TIMEOUT, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return finished.stdout


def userland_architecture(machine: str, *, is_64_bit: bool) -> str:
    """Return what this Python is built for, in the names profiles use.

    The kernel's name is not enough: a 32-bit Raspberry Pi OS runs on a 64-bit kernel.

    Args:
        machine: platform.machine().
        is_64_bit: Whether Python's own pointers have 64 bits.
    """
    name = machine.lower()
    if name in {"aarch64", "arm64"}:
        return "aarch64" if is_64_bit else "armv7l"
    if name in {"x86_64", "amd64"}:
        return "x86_64" if is_64_bit else "i686"
    if name in {"armv7l", "armv8l"}:  # armv8l: a 32-bit process's view of a 64-bit kernel
        return "armv7l"
    return name


def libc_name(os_family: str) -> str:
    """Return the C library and its version: "glibc 2.36", "bionic" or "unknown"."""
    if os_family == "android":
        return "bionic"
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):  # musl and macOS do not know the name
        version = None
    return version or "unknown"


def memory_limit(root: Path) -> int | None:
    """Return the smallest memory limit on this process's cgroup and its ancestors, in bytes."""
    base = root / "sys/fs/cgroup"
    limits = [
        parse_cgroup_limit(read_text(base / folder / file))
        for folder in cgroup_folders(read_text(root / "proc/self/cgroup"), "memory") or [""]
        for file in ("memory.max", "memory.limit_in_bytes")
    ]
    return min((limit for limit in limits if limit is not None), default=None)


def cpu_quota(root: Path) -> float | None:
    """Return the smallest CPU quota on this process's cgroup and its ancestors, in cores."""
    base = root / "sys/fs/cgroup"
    quotas = []
    for folder in cgroup_folders(read_text(root / "proc/self/cgroup"), "cpu") or [""]:
        quotas.append(parse_cpu_quota(read_text(base / folder / "cpu.max")))
        quota, period = (
            read_text(base / folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
        )
        quotas.append(parse_cpu_quota(f"{quota} {period}"))
    return min((quota for quota in quotas if quota is not None), default=None)


def _affinity(logical_cores: int) -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return logical_cores


def _board(root: Path, cpu: CpuInfo) -> str | None:
    for path in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
        if model := parse_device_tree_model(read_text(root / path).encode()):
            return model
    return cpu.board


def _os_family() -> str:
    # Python 3.13 calls Android by name; Termux's Python reports Linux and sets ANDROID_ROOT.
    if sys.platform == "android" or "ANDROID_ROOT" in os.environ:
        return "android"
    return {"Linux": "linux", "Darwin": "macos"}.get(platform.system(), platform.system().lower())


def detect_machine(root: Path = _ROOT) -> Machine:
    """Find out what this machine is.

    Args:
        root: The folder that /proc, /sys and /etc are read below; for tests and mounted images.

    Returns:
        The machine; fields that nothing could tell are "unknown", 0 or None.
    """
    family = _os_family()
    architecture = userland_architecture(platform.machine(), is_64_bit=sys.maxsize > 1 << 32)
    os_name = parse_os_release(read_text(root / "etc/os-release"))
    text = read_text(root / "proc/cpuinfo")
    board: str | None
    if text:
        cpu = parse_cpuinfo(text)
        total, available = parse_meminfo(read_text(root / "proc/meminfo"))
        board = _board(root, cpu)
    else:
        values = parse_sysctl(_output_of("sysctl", "-a")) if family == "macos" else {}
        cpu = cpuinfo_of_sysctl(values) if values else parse_cpuinfo("")
        total = available = int(values.get("hw.memsize", "0"))
        board = cpu.board
    if family == "android":
        properties = parse_getprop(_output_of("getprop"))
        board = properties.get("ro.product.model") or board
        os_name = f"Android {properties.get('ro.build.version.release', '')}".strip()
    # Armv8 has Advanced SIMD by definition of the Linux ABI, whatever a container hides.
    features = cpu.features | ({"neon"} if architecture == "aarch64" else set())
    usable = min(cpu.big_cores, _affinity(cpu.logical_cores))
    quota = cpu_quota(root)
    if quota is not None:
        usable = min(usable, math.ceil(quota))
    return Machine(
        architecture=architecture,
        cpu_model=cpu.model,
        features=frozenset(features),
        logical_cores=cpu.logical_cores,
        physical_cores=cpu.physical_cores,
        big_cores=cpu.big_cores,
        usable_cores=max(usable, 1),
        memory_total_bytes=total,
        memory_available_bytes=available,
        memory_limit_bytes=memory_limit(root),
        board=board,
        os_family=family,
        os_name=os_name or platform.platform(),
        python_version=platform.python_version(),
        libc=libc_name(family),
    )


def physical_cores() -> int:
    """Return how many threads keep this machine's cores busy, each core once.

    Second threads of a core and little cores beside big ones slow a matrix product down; a CPU
    quota or affinity makes more threads wait for each other.

    Returns:
        At least 1.
    """
    return detect_machine().usable_cores

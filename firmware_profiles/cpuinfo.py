"""What /proc and sysctl say about a machine, as pure functions over their texts.

Rules: no function here opens a file. A feature counts only if every core has it, because a thread
may land on any. Kernel spellings become the names of vocabulary.FEATURE_ISA.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# Kernel spelling -> our name (Linux: arch/arm64/kernel/cpuinfo.c, arch/arm/kernel/setup.c,
# arch/x86/include/asm/cpufeatures.h). 32-bit ARM kernels write "neon" for what arm64 calls "asimd".
FEATURE_SPELLINGS = MappingProxyType(
    {
        "asimd": "neon",
        "neon": "neon",
        "asimddp": "dotprod",
        "i8mm": "i8mm",
        "sve": "sve",
        "avx2": "avx2",
        "avx512_vnni": "avx512_vnni",
    }
)
# sysctl keys of macOS -> our name.
SYSCTL_SPELLINGS = MappingProxyType(
    {
        "hw.optional.neon": "neon",
        "hw.optional.AdvSIMD": "neon",
        "hw.optional.arm.FEAT_DotProd": "dotprod",
        "hw.optional.arm.FEAT_I8MM": "i8mm",
        "hw.optional.avx2_0": "avx2",
        "hw.optional.avx512vnni": "avx512_vnni",
    }
)
# "CPU part" of implementer 0x41 (Arm): arch/arm64/include/asm/cputype.h.
ARM_PARTS = MappingProxyType(
    {
        "0xc07": "Cortex-A7",
        "0xc0f": "Cortex-A15",
        "0xd03": "Cortex-A53",
        "0xd04": "Cortex-A35",
        "0xd05": "Cortex-A55",
        "0xd07": "Cortex-A57",
        "0xd08": "Cortex-A72",
        "0xd09": "Cortex-A73",
        "0xd0a": "Cortex-A75",
        "0xd0b": "Cortex-A76",
        "0xd0c": "Neoverse-N1",
        "0xd0d": "Cortex-A77",
        "0xd40": "Neoverse-V1",
        "0xd41": "Cortex-A78",
        "0xd42": "Cortex-A78AE",
        "0xd44": "Cortex-X1",
        "0xd46": "Cortex-A510",
        "0xd47": "Cortex-A710",
        "0xd48": "Cortex-X2",
        "0xd49": "Neoverse-N2",
        "0xd4b": "Cortex-A78C",
        "0xd4d": "Cortex-A715",
        "0xd4e": "Cortex-X3",
        "0xd4f": "Neoverse-V2",
        "0xd80": "Cortex-A520",
        "0xd81": "Cortex-A720",
        "0xd82": "Cortex-X4",
        "0xd85": "Cortex-X925",
        "0xd87": "Cortex-A725",
    }
)
LITTLE_CORES = frozenset(
    {"Cortex-A7", "Cortex-A35", "Cortex-A53", "Cortex-A55", "Cortex-A510", "Cortex-A520"}
)
UNLIMITED_FROM = 1 << 60  # bytes; cgroup v1 writes "no limit" as the largest page-aligned integer


@dataclass(frozen=True)
class CpuInfo:
    """What one description of the processors says.

    Attributes:
        model: The processor's name; with several kinds of core each with its count.
        features: ISA features that every core has.
        logical_cores: Processors the kernel schedules on.
        physical_cores: The same without the second threads of a core.
        big_cores: Physical cores that are not little ones beside bigger ones.
        board: The board's name, where the text carries it (Raspberry Pi kernels).
    """

    model: str
    features: frozenset[str]
    logical_cores: int
    physical_cores: int
    big_cores: int
    board: str | None


def _blocks(text: str) -> list[dict[str, str]]:
    """Split into one block a processor, then (last) what stands before and after them."""
    processors: list[dict[str, str]] = []
    shared: dict[str, str] = {}
    current = shared
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        key, value = key.strip(), value.strip()
        if not colon:
            # A blank line ends a processor's block; what follows without a number is shared.
            current = shared
            continue
        if key == "processor" and value.isdigit():
            current = {}
            processors.append(current)
        current[key] = value
    return [*processors, shared]


def _core_name(block: Mapping[str, str]) -> str:
    part = block.get("CPU part", "").lower()
    if block.get("CPU implementer") == "0x41" and part in ARM_PARTS:
        return ARM_PARTS[part]
    if "model name" in block:
        return block["model name"]
    implementer = block.get("CPU implementer")
    return f"CPU part {part} of implementer {implementer}" if part and implementer else ""


def _model(names: list[str], shared: Mapping[str, str]) -> str:
    counted = Counter(name for name in names if name)
    if not counted:
        return shared.get("Hardware") or shared.get("Processor") or "unknown"
    if len(counted) == 1:
        return next(iter(counted))
    return " + ".join(f"{count} x {name}" for name, count in counted.items())


def parse_cpuinfo(text: str) -> CpuInfo:
    """Read the text of /proc/cpuinfo, of x86, arm64 and 32-bit ARM kernels.

    Args:
        text: The file's content.

    Returns:
        What it says; a text without processors gives one core and no features.
    """
    *processors, shared = _blocks(text)
    lists = [
        frozenset(block[key].split())
        for block in [*processors, shared]
        for key in ("Features", "flags")
        if key in block
    ]
    kernel_features = frozenset.intersection(*lists) if lists else frozenset()
    features = frozenset(
        ours for spelling, ours in FEATURE_SPELLINGS.items() if spelling in kernel_features
    )
    logical = max(len(processors), 1)
    identified = {
        (block.get("physical id", "0"), block["core id"])
        for block in processors
        if "core id" in block
    }
    physical = len(identified) or logical
    names = [_core_name(block) for block in processors]
    little = sum(name in LITTLE_CORES for name in names)
    # Old vendor kernels name only one core: then nothing is known of the others.
    big = physical - little if all(names) and 0 < little < len(names) else physical
    return CpuInfo(
        model=_model(names, shared),
        features=features,
        logical_cores=logical,
        physical_cores=physical,
        big_cores=big,
        board=shared.get("Model") or None,
    )


def parse_sysctl(text: str) -> dict[str, str]:
    """Read ``sysctl -a`` of macOS into its keys and values."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def cpuinfo_of_sysctl(values: Mapping[str, str]) -> CpuInfo:
    """Make of macOS's sysctl values what parse_cpuinfo makes of /proc/cpuinfo."""
    physical = int(values.get("hw.physicalcpu", "1"))
    return CpuInfo(
        model=values.get("machdep.cpu.brand_string", "unknown"),
        features=frozenset(
            ours for key, ours in SYSCTL_SPELLINGS.items() if values.get(key) == "1"
        ),
        logical_cores=int(values.get("hw.logicalcpu", str(physical))),
        physical_cores=physical,
        # perflevel0 is the performance cluster of Apple silicon; Intel Macs have no such key.
        big_cores=int(values.get("hw.perflevel0.physicalcpu", str(physical))),
        board=values.get("hw.model"),
    )


def parse_meminfo(text: str) -> tuple[int, int]:
    """Read MemTotal and MemAvailable of /proc/meminfo, in bytes; 0 for a line that is not there.

    Kernels before 3.14 have no MemAvailable: MemFree stands in, which is less than the truth.
    """
    sizes = {
        match[1]: int(match[2]) * 1024
        for match in re.finditer(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    }
    return sizes.get("MemTotal", 0), sizes.get("MemAvailable", sizes.get("MemFree", 0))


def parse_cgroup_limit(text: str) -> int | None:
    """Read memory.max (v2) or memory.limit_in_bytes (v1): bytes, or None for no limit."""
    value = text.strip()
    if not value.isdigit() or int(value) >= UNLIMITED_FROM:
        return None
    return int(value)


def parse_cpu_quota(text: str) -> float | None:
    """Read cpu.max (v2), or v1's quota and period joined: cores' worth, or None for no limit."""
    quota, _, period = text.strip().partition(" ")
    if not quota.isdigit() or not period.strip().isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)


def cgroup_folders(self_cgroup: str, controller: str) -> list[str]:
    """List where a controller's files may lie under /sys/fs/cgroup, the process's own first.

    A limit on any ancestor binds too, so all of them are listed up to the root.

    Args:
        self_cgroup: Content of /proc/self/cgroup.
        controller: "memory" or "cpu".

    Returns:
        Folders relative to /sys/fs/cgroup: "" is the root of v2, "memory" that of v1.
    """
    folders: list[str] = []
    for line in self_cgroup.splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon:
            continue
        if controllers == "":
            mount = ""
        elif controller in controllers.split(","):
            mount = controllers
        else:
            continue
        parts = [part for part in path.split("/") if part]
        folders += [
            "/".join(filter(None, [mount, *parts[:depth]])) for depth in range(len(parts), -1, -1)
        ]
    return folders


def parse_os_release(text: str) -> str | None:
    """Return PRETTY_NAME of /etc/os-release without its quotes."""
    match = re.search(r"^PRETTY_NAME=(.*)$", text, re.MULTILINE)
    return match[1].strip().strip("\"'") if match else None


def parse_getprop(text: str) -> dict[str, str]:
    """Read Android's ``getprop``: lines of "[key]: [value]"."""
    return dict(re.findall(r"^\[([^\]]*)\]: \[([^\]]*)\]$", text, re.MULTILINE))


def parse_device_tree_model(content: bytes) -> str:
    """Read /proc/device-tree/model: a text that ends with NUL."""
    return content.split(b"\0", 1)[0].decode("utf-8", "replace").strip()

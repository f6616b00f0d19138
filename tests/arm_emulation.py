"""Programs of Arm boards on this machine, by qemu-user: what the tests in tests/arm share.

The emulator runs the instructions of the CPU that it is told to be, so a kernel that a board does
not have ends the process here too; its speed says nothing.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

# Where scripts/arm_environment.sh unpacked sysroots and wheels, or why it did not.
ARM = os.environ.get("EDGEWISE_ARM")
needs_arm = pytest.mark.skipif(
    ARM is None,
    reason="no Arm emulation: " + os.environ.get("EDGEWISE_ARM_MISSING", "run scripts/arm"),
)
ROOT = Path(__file__).parents[1]
FEATURES = {  # as Linux lists them
    "cortex-a53": "fp asimd evtstrm crc32 cpuid",
    "cortex-a72": "fp asimd evtstrm crc32 cpuid",
    "cortex-a76": "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm "
    "lrcpc dcpop asimddp",
}
PARTS = {"cortex-a53": "0xd03", "cortex-a72": "0xd08", "cortex-a76": "0xd0b"}


def packages_folder(folder: Path) -> Path:
    """Make a folder from which what a device has of `edgewise` is imported, not installed."""
    package = folder / "packages" / "edgewise"
    package.mkdir(parents=True)
    for name in ("common", "runtime", "firmware_profiles"):
        (package / name).symlink_to(ROOT / name)
    return package.parent


def sysroot_of(cpu: str, folder: Path) -> Path:
    """The sysroot with what a board's kernel says of its CPU: libraries read it."""
    root = folder / cpu
    subprocess.run(["cp", "-rs", f"{ARM}/arm64", str(root)], check=True)
    (root / "proc").mkdir(exist_ok=True)
    (root / "sys/devices/system/cpu").mkdir(parents=True, exist_ok=True)
    core = (
        "processor\t: {}\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        "CPU variant\t: 0x0\nCPU part\t: {}\nCPU revision\t: 3\n\n"
    )
    information = "".join(core.format(i, FEATURES[cpu], PARTS[cpu]) for i in range(4))
    (root / "proc/cpuinfo").write_text(information)
    for name in ("present", "possible", "online"):
        (root / "sys/devices/system/cpu" / name).write_text("0-3\n")
    return root


def command_64_bit(cpu: str, packages: Path, folder: Path, *arguments: str) -> list[str]:
    """Return what runs Debian's Python 3.13 for 64-bit Arm on a CPU, with the wheels."""
    root = sysroot_of(cpu, folder)
    python = str(root / "usr/bin/python3.13")
    path = f"{ARM}/arm64-wheels:{packages}"
    return [*_emulator("aarch64", cpu, root, path), python, *arguments]


def command_32_bit(packages: Path, *arguments: str) -> list[str]:
    """Return what runs Debian's Python 3.11 and numpy for 32-bit Arm, with tflite-runtime."""
    root = Path(str(ARM)) / "armhf"
    path = f"{ARM}/armhf-wheels:{packages}:{root}/usr/lib/python3/dist-packages"
    python = str(root / "usr/bin/python3.11")
    return [*_emulator("arm", "cortex-a15", root, path), python, *arguments]


def output_of(command: list[str], given: str = "") -> str:
    """Run a command to its end and return what it wrote."""
    result = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest relative error of a row."""
    errors = np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return float(errors.max())


def _emulator(machine: str, cpu: str, root: Path, path: str) -> list[str]:
    program = f"qemu-{machine}-static"
    return [program, "-E", f"PYTHONPATH={path}", "-cpu", cpu, "-L", str(root)]

"""Makes ai-edge-litert importable on CPUs that its accelerators refuse.

The wheel for 64-bit Arm brings an accelerator for GPUs that ends the process with an illegal
instruction, on purpose, where the CPU lacks Armv8.2's extensions: on a Raspberry Pi 3 or 4 and a
Jetson Nano. The library loads it with the first model, asked or not, from its own folder. So on
such a CPU the package is imported from a folder of links to all its files but those.

Rule: nothing here imports the library; this must run before anything does.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path

PACKAGE = "ai_edge_litert"
# What the accelerator of release 2.3.0 asks of the CPU, in the kernel's names.
NEEDED_FEATURES = frozenset(
    {"aes", "sha2", "crc32", "atomics", "asimddp", "asimdhp", "asimdrdm", "lrcpc"}
)
_FEATURES = re.compile(r"^Features\s*:(.*)$", re.MULTILINE)
_ACCELERATORS = "libLiteRt*Accelerator.*"


def make_importable() -> None:
    """Prepare this process for importing the library; a second call does nothing."""
    if PACKAGE in sys.modules or not lacking_features(platform.machine(), _cpu_information()):
        return
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return  # not installed: importing it says so
    folder = Path(tempfile.mkdtemp(prefix="edgewise-litert-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    link_without_accelerators(Path(found.origin).parent, folder / PACKAGE)
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module("ai_edge_litert")
    finally:
        sys.path.remove(str(folder))


def lacking_features(machine: str, cpu_information: str) -> tuple[str, ...]:
    """Return what the accelerators ask of a CPU and some core does not have.

    Args:
        machine: As ``platform.machine`` names it.
        cpu_information: The content of /proc/cpuinfo, empty where there is none.
    """
    if machine != "aarch64":
        return ()
    lists = [set(features.split()) for features in _FEATURES.findall(cpu_information)]
    # A system that lists none (macOS, a phone's sandbox) is a newer one.
    return tuple(sorted(set[str]().union(*(NEEDED_FEATURES - features for features in lists))))


def accelerator_note() -> str | None:
    """Say what happens to programs that load the library as it is on this CPU, if anything."""
    lacking = lacking_features(platform.machine(), _cpu_information())
    if not lacking:
        return None
    return (
        f"on this CPU, which lacks {', '.join(lacking)}, its accelerators for GPUs end a process "
        "by SIGILL: Edgewise loads it without them, other programs do not"
    )


def link_without_accelerators(package: Path, target: Path) -> None:
    """Fill a new folder with links to a package's entries, accelerators left out."""
    target.mkdir()
    left_out = set(package.glob(_ACCELERATORS))
    for entry in package.iterdir():
        if entry not in left_out and entry.name != "__pycache__":
            (target / entry.name).symlink_to(entry)


def _cpu_information() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""

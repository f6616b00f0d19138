"""What the tests of profiles share: a profile to break, captured texts, a made-up machine."""

import copy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewise.firmware_profiles import Machine, Profile, loading
from edgewise.firmware_profiles.loading import parse_profile

DATA = Path(__file__).parent / "data"
GIBIBYTE = 1 << 30
PI_5_MACHINE = Machine(
    architecture="aarch64",
    cpu_model="Cortex-A76",
    features=frozenset({"neon", "dotprod"}),
    logical_cores=4,
    physical_cores=4,
    big_cores=4,
    usable_cores=4,
    memory_total_bytes=8 * GIBIBYTE - 150_000_000,
    memory_available_bytes=7 * GIBIBYTE,
    memory_limit_bytes=None,
    board="Raspberry Pi 5 Model B Rev 1.0",
    os_family="linux",
    os_name="Debian GNU/Linux 12 (bookworm)",
    python_version="3.11.2",
    libc="glibc 2.36",
)


@pytest.fixture
def content() -> dict[str, Any]:
    """The parsed TOML of raspberry_pi_5, a copy to break."""
    path = Path(loading.__file__).parent / "raspberry_pi_5.toml"
    return copy.deepcopy(tomllib.loads(path.read_text()))


@pytest.fixture
def parse() -> Callable[[dict[str, Any]], Profile]:
    """Parse a table as the file board.toml."""
    return lambda content: parse_profile(content, subject="board.toml")


@pytest.fixture
def cpuinfo_text() -> Callable[[str], str]:
    """Read a captured /proc/cpuinfo by name."""
    return lambda name: (DATA / "cpuinfo" / f"{name}.txt").read_text()


@pytest.fixture
def machine() -> Machine:
    """A Raspberry Pi 5 with 8 GB as its kernel reports it."""
    return PI_5_MACHINE

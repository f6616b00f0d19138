"""A machine as it was found: what the doctor prints and profiles are compared with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Machine:
    """Facts about one machine; detect.py finds them.

    Attributes:
        architecture: What this Python is built for: "aarch64", "armv7l", "x86_64" or the name
            that the system gives.
        cpu_model: The processor's name.
        features: ISA features of every core, in the names of vocabulary.FEATURE_ISA.
        logical_cores: Processors the kernel schedules on.
        physical_cores: The same without second threads of a core.
        big_cores: Physical cores without the little ones of a big/little pair.
        usable_cores: Cores this process may keep busy: big ones, within its CPU affinity and quota.
        memory_total_bytes: RAM the kernel has.
        memory_available_bytes: RAM that could be taken now without swapping.
        memory_limit_bytes: The process's cgroup limit; None for none.
        board: What the firmware calls the board; None where it says nothing.
        os_family: "linux", "android" or "macos", or the name that the system gives.
        os_name: The system's name and version.
        python_version: As "3.11.2".
        libc: As "glibc 2.36", "bionic" or "unknown".
    """

    architecture: str
    cpu_model: str
    features: frozenset[str]
    logical_cores: int
    physical_cores: int
    big_cores: int
    usable_cores: int
    memory_total_bytes: int
    memory_available_bytes: int
    memory_limit_bytes: int | None
    board: str | None
    os_family: str
    os_name: str
    python_version: str
    libc: str

    @property
    def memory_bytes(self) -> int:
        """RAM this process may have at all: the kernel's or the cgroup's, whichever is less."""
        if self.memory_limit_bytes is None:
            return self.memory_total_bytes
        return min(self.memory_total_bytes, self.memory_limit_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Return all facts in the types of JSON, for printing."""
        plain = dataclasses.asdict(self)
        plain["features"] = sorted(self.features)
        plain["memory_bytes"] = self.memory_bytes
        return plain

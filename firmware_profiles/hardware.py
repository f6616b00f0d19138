"""The parts of a board: processor, memory, accelerator, operating system.

Rules: frozen, and each refuses its own contradictions when it is made. Sizes are bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgewise.firmware_profiles.errors import refuse_if_any
from edgewise.firmware_profiles.vocabulary import (
    ACCELERATOR_KINDS,
    FEATURE_ISA,
    FEATURE_NEEDS,
    ISAS,
    OS_FAMILIES,
    unknown,
)

VARIANT_NAME = re.compile(r"(\d+)(mb|gb)")
LIBC_NAME = re.compile(r"glibc \d+\.\d+|bionic")


@dataclass(frozen=True)
class Cores:
    """How many cores of each kind; on a board with one kind all of them are big."""

    big: int
    little: int

    @property
    def total(self) -> int:
        """Cores of both kinds."""
        return self.big + self.little


@dataclass(frozen=True)
class Cpu:
    """The processor: its name, instruction set, the features that kernels choose by, its cores."""

    model: str
    isa: str
    features: frozenset[str]
    cores: Cores

    def __post_init__(self) -> None:
        problems = []
        if self.isa not in ISAS:
            problems.append(unknown("isa", self.isa, ISAS))
        for feature in sorted(self.features):
            if feature not in FEATURE_ISA:
                problems.append(unknown("feature", feature, FEATURE_ISA))
            elif self.isa in ISAS and FEATURE_ISA[feature] != self.isa:
                problems.append(
                    f"feature {feature!r} belongs to {FEATURE_ISA[feature]}, not {self.isa}"
                )
            need = FEATURE_NEEDS.get(feature)
            if need is not None and need not in self.features:
                problems.append(f"feature {feature!r} exists in no CPU without {need!r}; add it")
        if self.cores.big < 1 or self.cores.little < 0:
            problems.append(
                f"cores: {self.cores.big} big and {self.cores.little} little; "
                "at least 1 big and 0 little are needed"
            )
        refuse_if_any("cpu", problems)


@dataclass(frozen=True)
class MemoryVariant:
    """One size in which the board is sold: its RAM and what of that a model may use, in bytes."""

    name: str
    ram_bytes: int
    usable_bytes: int

    def __post_init__(self) -> None:
        problems = []
        match = VARIANT_NAME.fullmatch(self.name)
        if match is None:
            problems.append("the name must be a size as '512mb' or '8gb'")
        elif self.ram_bytes != int(match[1]) << (20 if match[2] == "mb" else 30):
            problems.append(f"ram_bytes {self.ram_bytes} is not {self.name}")
        if self.usable_bytes < 1:
            problems.append(f"usable_bytes {self.usable_bytes} is not positive")
        if self.usable_bytes > self.ram_bytes:
            problems.append(f"usable_bytes {self.usable_bytes} exceeds ram_bytes {self.ram_bytes}")
        refuse_if_any(f"memory.variants.{self.name}", problems)


@dataclass(frozen=True)
class Memory:
    """RAM in the sizes the board is sold with, one of them chosen, and the bandwidth of all.

    Attributes:
        variant: Name of the size in force.
        default_variant: Name of the size in force when the user names none.
        variants: The sizes, ascending.
        bandwidth_bytes_per_second: Peak rate of the memory bus: an upper bound, not a measurement.
        bandwidth_source: Where that number comes from.
    """

    variant: str
    default_variant: str
    variants: tuple[MemoryVariant, ...]
    bandwidth_bytes_per_second: int
    bandwidth_source: str

    def __post_init__(self) -> None:
        problems = []
        names = [variant.name for variant in self.variants]
        if not names:
            problems.append("variants is empty; at least one size of RAM is needed")
        problems += [
            unknown("variant", word, names)
            for word in sorted({self.variant, self.default_variant})
            if names and word not in names
        ]
        sizes = [variant.ram_bytes for variant in self.variants]
        if sizes != sorted(set(sizes)):
            problems.append(f"variants {', '.join(names)} must stand in ascending order, each once")
        usable = [variant.usable_bytes for variant in self.variants]
        if usable != sorted(usable):
            problems.append("a larger variant has less usable_bytes than a smaller one")
        if self.bandwidth_bytes_per_second < 1:
            problems.append("bandwidth_bytes_per_second must be positive")
        if not self.bandwidth_source.strip():
            problems.append("bandwidth_source is empty; say where the number comes from")
        refuse_if_any("memory", problems)

    @property
    def chosen(self) -> MemoryVariant:
        """The size in force."""
        return next(variant for variant in self.variants if variant.name == self.variant)

    @property
    def ram_bytes(self) -> int:
        """RAM of the size in force, in bytes."""
        return self.chosen.ram_bytes

    @property
    def usable_bytes(self) -> int:
        """What a model may use of it, in bytes: weights, cache and runtime together."""
        return self.chosen.usable_bytes


@dataclass(frozen=True)
class Accelerator:
    """What computes beside the CPU: a kind ("none", "cuda", "opencl") and its name ("" if none)."""

    kind: str
    name: str

    def __post_init__(self) -> None:
        problems = []
        if self.kind not in ACCELERATOR_KINDS:
            problems.append(unknown("kind", self.kind, ACCELERATOR_KINDS))
        if (self.kind == "none") != (self.name == ""):
            problems.append(f"kind {self.kind!r} contradicts name {self.name!r}")
        refuse_if_any("accelerator", problems)


@dataclass(frozen=True)
class OperatingSystem:
    """The system assumed: its family, its name, its C library ("glibc 2.36" or "bionic")."""

    family: str
    name: str
    libc: str

    def __post_init__(self) -> None:
        problems = []
        if self.family not in OS_FAMILIES:
            problems.append(unknown("family", self.family, OS_FAMILIES))
        if not LIBC_NAME.fullmatch(self.libc):
            problems.append(f"libc {self.libc!r} is neither 'bionic' nor as 'glibc 2.36'")
        refuse_if_any("os", problems)

"""Compares machines with profiles: what a machine lacks, and which profile fits it best.

Workflow: the doctor calls `fitting_profile(machine)` and prints the reasons; `misfits` tells the
same about a profile that the user chose. Rules: a board is recognised by its name before anything
else; a machine that is no known board gets the nearest profile, and the reasons say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgewise.firmware_profiles.errors import ProfileError
from edgewise.firmware_profiles.loading import available_profiles, load_profile
from edgewise.firmware_profiles.machine import Machine
from edgewise.firmware_profiles.profile import MEBIBYTE, Profile
from edgewise.firmware_profiles.vocabulary import USERLAND_ISA

# What the kernel calls its memory is less than what is soldered on: firmware, GPU and the kernel
# itself keep up to a fifth (a Raspberry Pi Zero 2 W reports 81% of its 512 MiB).
LEAST_SHARE_SEEN = 0.78


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def misfits(profile: Profile, machine: Machine) -> tuple[str, ...]:
    """Say what a machine lacks of what a profile takes for granted.

    Args:
        profile: The profile, with its runtime and RAM variant in force.
        machine: The machine that is to run it.

    Returns:
        One sentence a lack; empty when the machine has all that the profile assumes.
    """
    choice = profile.runtime_choice(profile.runtime)
    lacks = []
    if machine.architecture != choice.userland:
        lacks.append(
            f"this Python is built for {machine.architecture}, the profile's {profile.runtime} "
            f"runtime for {choice.userland}"
        )
    if machine.os_family != profile.os.family:
        lacks.append(f"the system is {machine.os_name}, the profile is for {profile.os.name}")
    missing = sorted(profile.cpu.features - machine.features)
    if missing and USERLAND_ISA.get(machine.architecture) == profile.cpu.isa:
        lacks.append(f"the CPU ({machine.cpu_model}) has no {' and no '.join(missing)}")
    if machine.memory_bytes < profile.memory.usable_bytes:
        lacks.append(
            f"{machine.memory_bytes // MEBIBYTE} MiB of memory, of which the profile's models may "
            f"use {profile.memory.usable_bytes // MEBIBYTE}"
        )
    if machine.physical_cores < profile.threads:
        lacks.append(f"{machine.physical_cores} cores for the profile's {profile.threads} threads")
    python = ".".join(machine.python_version.split(".")[:2])
    if python not in choice.python:
        lacks.append(
            f"Python {python}, where the {profile.runtime} runtime has wheels for "
            f"{', '.join(choice.python)}"
        )
    library, _, have = machine.libc.partition(" ")
    wanted_library, _, want = profile.os.libc.partition(" ")
    if library == wanted_library and _version(have) < _version(want):
        lacks.append(f"{machine.libc}, where the profile's system has {profile.os.libc}")
    return tuple(lacks)


def _with_fitting_variant(profile: Profile, machine: Machine) -> Profile:
    """Choose the largest variant that the machine can be and has memory for, or the smallest."""
    fitting = [
        variant.name
        for variant in profile.memory.variants
        if variant.ram_bytes * LEAST_SHARE_SEEN <= machine.memory_total_bytes
        and variant.usable_bytes <= machine.memory_bytes
    ]
    return profile.with_variant(fitting[-1] if fitting else profile.memory.variants[0].name)


def _by_board(profiles: Iterable[Profile], machine: Machine) -> Profile | None:
    """Return the profile with the longest board name that the machine's begins with."""
    named = [
        (len(model), profile)
        for profile in profiles
        for model in profile.board_models
        if machine.board and machine.board.startswith(model)
    ]
    return max(named, key=lambda pair: pair[0])[1] if named else None


def _closeness(profile: Profile, machine: Machine) -> tuple[int, bool, bool, int, int]:
    return (
        -len(misfits(profile, machine)),
        not profile.board_models,  # a class of machines before a board that this one is not
        profile.accelerator.kind == "none",  # nothing is known of this machine's accelerator
        len(profile.cpu.features),
        profile.memory.usable_bytes,
    )


def fitting_profile(machine: Machine) -> tuple[Profile, tuple[str, ...]]:
    """Choose the built-in profile that fits a machine best.

    Args:
        machine: What detect_machine found.

    Returns:
        The profile, with the RAM variant that the machine has memory for, and the reasons as
        sentences: why this one, then what the machine lacks of it.

    Raises:
        ProfileError: No built-in profile is for this machine's architecture.
    """
    profiles = [_with_fitting_variant(load_profile(name), machine) for name in available_profiles()]
    chosen = _by_board(profiles, machine)
    if chosen is not None:
        reason = f"the board calls itself {machine.board!r}"
    else:
        isa = USERLAND_ISA.get(machine.architecture)
        candidates = [profile for profile in profiles if profile.cpu.isa == isa]
        if not candidates:
            raise ProfileError(
                f"no profile is for {machine.architecture} ({machine.cpu_model}); "
                f"there are {', '.join(available_profiles())}, or write one as a .toml file."
            )
        chosen = max(candidates, key=lambda profile: _closeness(profile, machine))
        features = ", ".join(sorted(machine.features)) or "no known feature"
        whom = "stands for such machines" if not chosen.board_models else "is the nearest board"
        reason = (
            f"{machine.board or machine.cpu_model} is no known board; {chosen.title} {whom} "
            f"({machine.architecture}, {features})"
        )
    memory = (
        f"{machine.memory_bytes // MEBIBYTE} MiB of memory make it the {chosen.memory.variant} "
        f"variant, {chosen.memory.usable_bytes // MEBIBYTE} MiB of it for models"
    )
    return chosen, (reason, memory, *misfits(chosen, machine))

"""Finds a profile by name or path and reads it strictly.

Workflow: `load_profile("raspberry_pi_5:16gb")` -> the TOML of that name, or of that path -> strict
fields -> frozen types -> the RAM variant. Rules: one ProfileError names every unknown, missing and
ill-typed field; only when there are none are contradictions looked for, and again all are named.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edgewise.firmware_profiles.errors import ProfileError, refusal, refuse_if_any
from edgewise.firmware_profiles.hardware import (
    Accelerator,
    Cores,
    Cpu,
    Memory,
    MemoryVariant,
    OperatingSystem,
)
from edgewise.firmware_profiles.profile import Profile, RuntimeChoice
from edgewise.firmware_profiles.recipe import RecipeChoice
from edgewise.firmware_profiles.strict import Each, Kind, Schema, problems_with_fields
from edgewise.firmware_profiles.vocabulary import nearest

_FOLDER = Path(__file__).parent

SCHEMA: Schema = {
    "name": Kind.TEXT,
    "title": Kind.TEXT,
    "board_models": Kind.TEXTS,
    "runtime": Kind.TEXT,
    "max_context": Kind.INTEGER,
    "threads": Kind.INTEGER,
    "slots": Kind.INTEGER,
    "cpu": {
        "model": Kind.TEXT,
        "isa": Kind.TEXT,
        "features": Kind.TEXTS,
        "cores": {"big": Kind.INTEGER, "little": Kind.INTEGER},
    },
    "memory": {
        "variant": Kind.TEXT,
        "bandwidth_bytes_per_second": Kind.INTEGER,
        "bandwidth_source": Kind.TEXT,
        "variants": Each({"ram_bytes": Kind.INTEGER, "usable_bytes": Kind.INTEGER}),
    },
    "accelerator": {"kind": Kind.TEXT, "name": Kind.TEXT},
    "os": {"family": Kind.TEXT, "name": Kind.TEXT, "libc": Kind.TEXT},
    "runtimes": Each(
        {
            "userland": Kind.TEXT,
            "python": Kind.TEXTS,
            "execution_providers": Kind.TEXTS,
            "cache_dtype": Kind.TEXT,
            "overhead_bytes": Kind.INTEGER,
            "recipe": {
                "name": Kind.TEXT,
                "embedding": Kind.TEXT,
                "attention": Kind.TEXT,
                "mlp": Kind.TEXT,
                "head": Kind.TEXT,
                "activations": Kind.TEXT,
            },
        }
    ),
}


def available_profiles() -> tuple[str, ...]:
    """Return the names of the built-in profiles, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_profile(name: str) -> Profile:
    """Load a profile.

    Args:
        name: A built-in name ("raspberry_pi_5") or the path of a .toml file, either with an
            optional RAM variant behind a colon ("raspberry_pi_5:16gb").

    Returns:
        The profile with that variant in force, or the default one.

    Raises:
        ProfileError: No such profile or variant, or the file is faulty: all faults in one message.
    """
    reference, colon, variant = name.partition(":")
    if reference.endswith(".toml") or "/" in reference:
        profile = read_profile(Path(reference))
    elif reference in available_profiles():
        profile = read_profile(_FOLDER / f"{reference}.toml")
    else:
        raise ProfileError(
            f"profile {reference!r} is unknown{nearest(reference, available_profiles())}; "
            f"there are {', '.join(available_profiles())}, or give the path of a .toml file."
        )
    return profile.with_variant(variant) if colon else profile


def read_profile(path: Path) -> Profile:
    """Read one profile file.

    Raises:
        ProfileError: The file can not be read, is no TOML, or parse_profile refuses it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ProfileError(
            f"profile file {str(path)!r} can not be read: {reason}; give the path of a .toml file "
            f"or one of {', '.join(available_profiles())}."
        ) from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ProfileError(f"{path.name} is not a TOML file in UTF-8: {error}.") from error
    return parse_profile(content, subject=path.name)


def parse_profile(content: Mapping[str, Any], *, subject: str) -> Profile:
    """Build a profile from a parsed TOML file.

    Args:
        content: The file's top-level table.
        subject: What messages call the file.

    Raises:
        ProfileError: All unknown, missing and ill-typed fields; or, when there are none, all
            contradictions.
    """
    refuse_if_any(subject, problems_with_fields(content, SCHEMA))
    parts: list[tuple[str, Callable[[], object]]] = [
        ("cpu", lambda: _cpu(content)),
        ("memory", lambda: _memory(content)),
        ("accelerator", lambda: Accelerator(**content["accelerator"])),
        ("os", lambda: OperatingSystem(**content["os"])),
    ]
    parts += [
        (f"runtimes.{name}", partial(_runtime, content, name)) for name in content["runtimes"]
    ]
    # Each part is tried first, so that one message names the contradictions of all of them.
    refuse_if_any(subject, [text for label, make in parts for text in _faults(label, make)])
    try:
        return Profile(
            name=content["name"],
            title=content["title"],
            board_models=tuple(content["board_models"]),
            cpu=_cpu(content),
            memory=_memory(content),
            accelerator=Accelerator(**content["accelerator"]),
            os=OperatingSystem(**content["os"]),
            runtime=content["runtime"],
            runtimes=tuple(_runtime(content, name) for name in content["runtimes"]),
            max_context=content["max_context"],
            threads=content["threads"],
            slots=content["slots"],
        )
    except ProfileError as error:
        raise refusal(subject, error.problems) from error


def _faults(label: str, make: Callable[[], object]) -> list[str]:
    try:
        make()
    except ProfileError as error:
        return [f"{label}: {problem}" for problem in error.problems]
    return []


def _cpu(content: Mapping[str, Any]) -> Cpu:
    table = content["cpu"]
    return Cpu(
        model=table["model"],
        isa=table["isa"],
        features=frozenset(table["features"]),
        cores=Cores(**table["cores"]),
    )


def _memory(content: Mapping[str, Any]) -> Memory:
    table = content["memory"]
    return Memory(
        variant=table["variant"],
        default_variant=table["variant"],
        variants=tuple(MemoryVariant(name, **sizes) for name, sizes in table["variants"].items()),
        bandwidth_bytes_per_second=table["bandwidth_bytes_per_second"],
        bandwidth_source=table["bandwidth_source"],
    )


def _runtime(content: Mapping[str, Any], name: str) -> RuntimeChoice:
    table = content["runtimes"][name]
    return RuntimeChoice(
        name=name,
        userland=table["userland"],
        python=tuple(table["python"]),
        execution_providers=tuple(table["execution_providers"]),
        cache_dtype=table["cache_dtype"],
        overhead_bytes=table["overhead_bytes"],
        recipe=RecipeChoice(**table["recipe"]),
    )

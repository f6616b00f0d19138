"""The tables of docs/profiles.md, made from the profiles themselves.

Workflow: `python -m edgewise.firmware_profiles.table docs/profiles.md` rewrites what stands between
the two marks in that file; without a path the tables go to standard output. A test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgewise.common.files import write_atomically
from edgewise.firmware_profiles.errors import ProfileError
from edgewise.firmware_profiles.hardware import MemoryVariant
from edgewise.firmware_profiles.loading import available_profiles, load_profile
from edgewise.firmware_profiles.profile import MEBIBYTE, Profile, RuntimeChoice
from edgewise.firmware_profiles.recipe import RecipeChoice

BEGIN = "<!-- tables: begin (python -m edgewise.firmware_profiles.table docs/profiles.md) -->"
END = "<!-- tables: end -->"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines)


def _cores(profile: Profile) -> str:
    cores = profile.cpu.cores
    return f"{cores.big} + {cores.little}" if cores.little else str(cores.big)


def _variants(profile: Profile) -> str:
    def text(variant: MemoryVariant) -> str:
        usable = f"{variant.name} ({variant.usable_bytes // MEBIBYTE} MiB)"
        is_default = variant.name == profile.memory.default_variant
        return f"**{usable}**" if is_default and len(profile.memory.variants) > 1 else usable

    return ", ".join(text(variant) for variant in profile.memory.variants)


def _boards(profiles: Iterable[Profile]) -> str:
    return _table(
        (
            "profile",
            "board",
            "CPU",
            "cores",
            "features",
            "RAM (for models)",
            "system",
            "threads",
            "slots",
        ),
        [
            (
                f"`{profile.name}`",
                profile.title,
                profile.cpu.model,
                _cores(profile),
                ", ".join(sorted(profile.cpu.features)),
                _variants(profile),
                profile.os.name,
                str(profile.threads),
                str(profile.slots),
            )
            for profile in profiles
        ],
    )


def _bandwidths(profiles: Iterable[Profile]) -> str:
    return _table(
        ("profile", "GB/s", "source", "accelerator"),
        [
            (
                f"`{profile.name}`",
                f"{profile.memory.bandwidth_bytes_per_second / 1e9:.1f}",
                profile.memory.bandwidth_source,
                profile.accelerator.name or "none",
            )
            for profile in profiles
        ],
    )


def _recipe(recipe: RecipeChoice) -> str:
    """Write a recipe for people: one format where all roles share it."""
    formats = recipe.formats
    if len(set(formats.values())) == 1:
        return formats["mlp"]
    groups: dict[str, list[str]] = {}
    for role, text in formats.items():
        groups.setdefault(text, []).append(role)
    return "; ".join(f"{', '.join(roles)} {text}" for text, roles in groups.items())


def _runtime_row(profile: Profile, choice: RuntimeChoice) -> Sequence[str]:
    is_default = choice.name == profile.runtime
    return (
        f"`{profile.name}`",
        f"**{choice.name}**" if is_default else choice.name,
        _recipe(choice.recipe),
        choice.recipe.activations,
        ", ".join(choice.execution_providers),
        choice.userland,
        ", ".join(choice.python),
        str(choice.overhead_bytes // MEBIBYTE),
        f"{profile.max_context if is_default else 'as above'} ({choice.cache_dtype})",
    )


def _runtimes(profiles: Iterable[Profile]) -> str:
    return _table(
        (
            "profile",
            "runtime",
            "weights",
            "activations",
            "providers",
            "userland",
            "Python",
            "runtime MiB",
            "context (cache)",
        ),
        [
            _runtime_row(profile, choice)
            for profile in profiles
            for choice in sorted(profile.runtimes, key=lambda c: c.name != profile.runtime)
        ],
    )


def render() -> str:
    """Return the three tables in Markdown, without the marks."""
    profiles = [load_profile(name) for name in available_profiles()]
    return "\n\n".join(
        (
            "### Boards",
            _boards(profiles),
            "### Runtimes and recipes",
            _runtimes(profiles),
            "### Memory bandwidth",
            _bandwidths(profiles),
        )
    )


def with_tables(document: str) -> str:
    """Return a document with the tables between its marks brought up to date.

    Raises:
        ProfileError: The document lacks the marks.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ProfileError(f"the document has no lines {BEGIN!r} and {END!r} to write between.")
    return f"{before}{BEGIN}\n\n{render()}\n\n{END}{after}"


def main(arguments: Sequence[str]) -> None:
    """Rewrite the tables of the file that is named, or print them."""
    if arguments:
        path = Path(arguments[0])
        write_atomically(path, with_tables(path.read_text(encoding="utf-8")).encode())
    else:
        sys.stdout.write(render() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""``edgewise profiles``: the boards that can be exported for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgewise.cli import console, figures
from edgewise.cli.parameters import complete_profiles, examples, json_option

if TYPE_CHECKING:
    from edgewise.firmware_profiles import Profile


@click.command(
    short_help="List the boards, or show all of one.",
    epilog=examples(
        "edgewise profiles",
        "edgewise profiles raspberry_pi_5",
        "edgewise profiles raspberry_pi_5:16gb --json",
    ),
)
@click.argument("name", required=False, shell_complete=complete_profiles)
@json_option
def profiles(*, name: str | None, as_json: bool) -> None:
    """List the profiles, or show everything of the one called NAME."""
    from edgewise.firmware_profiles import available_profiles, load_profile

    if name is not None:
        profile = load_profile(name)
        if as_json:
            console.write_json(profile_json(profile))
        else:
            show(profile)
        return
    found = [load_profile(known) for known in available_profiles()]
    if as_json:
        console.write_json([profile_json(profile) for profile in found])
    else:
        console.write_table(
            [
                ("PROFILE", "RUNS", "CONTEXT", "RAM", "CPU", "RECIPE"),
                *(_row(profile) for profile in found),
            ]
        )


def profile_json(profile: Profile) -> dict[str, Any]:
    """Return a profile in the types of JSON."""
    return {"qualified_name": profile.qualified_name, **profile.as_dict()}


def _row(profile: Profile) -> tuple[str, ...]:
    sizes = [
        f"{variant.name}*" if variant.name == profile.memory.variant else variant.name
        for variant in profile.memory.variants
    ]
    features = " ".join(sorted(profile.cpu.features))
    return (
        profile.name,
        profile.runtime,
        str(profile.max_context),
        " ".join(sizes),
        f"{profile.cpu.model} ({features})" if features else profile.cpu.model,
        str(profile.recipe),
    )


def show(profile: Profile) -> None:
    """Write every field of a profile for people, table by table."""
    fields = profile_json(profile)
    plain = {key: value for key, value in fields.items() if not isinstance(value, dict)}
    console.write_section(profile.title, _rows(plain))
    for key, value in fields.items():
        if isinstance(value, dict):
            console.write_section(key, _rows(value))


def _rows(fields: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in fields.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            rows += _rows(value, f"{name}.")
        elif isinstance(value, list):
            rows.append((name, ", ".join(map(str, value)) or "none"))
        elif key.endswith("_bytes"):
            rows.append((name, figures.size(value)))
        elif key.endswith("_bytes_per_second"):
            rows.append((name, f"{value / 1e9:.1f} GB/s"))
        else:
            rows.append((name, str(value) or "none"))
    return rows

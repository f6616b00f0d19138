"""``edgewise plan``: what a model would need on a board, before it is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgewise.cli import console, figures
from edgewise.cli.extras import require_extra
from edgewise.cli.parameters import (
    PATH,
    cache_context_option,
    cache_type_option,
    complete_profiles,
    complete_recipes,
    examples,
    format_option,
    json_option,
)

if TYPE_CHECKING:
    from edgewise.exporter.forecast import Forecast


@click.command(
    short_help="Tell from a config.json alone whether a model fits a board.",
    epilog=examples(
        "edgewise plan --config ./phi-2/config.json --profile raspberry_pi_5:4gb",
        "edgewise plan --config ./Orca-2-7b --profile jetson_agx_orin --recipe int4 "
        "--context 2048 --json",
    ),
)
@click.option(
    "--config",
    type=PATH,
    metavar="FILE",
    required=True,
    help="A config.json of Hugging Face, or the folder that holds it; weights are not needed.",
)
@click.option(
    "--profile",
    metavar="NAME",
    required=True,
    shell_complete=complete_profiles,
    help="The board: a name that `edgewise profiles` lists, or a .toml file; a size of RAM "
    "may stand behind a colon.",
)
@format_option
@click.option(
    "--recipe",
    metavar="TEXT",
    shell_complete=complete_recipes,
    help="How weights are stored, as `edgewise export --recipe`; default: as the profile says.",
)
@cache_context_option
@cache_type_option
@json_option
def plan(
    *,
    config: Path,
    profile: str,
    runtime: str | None,
    recipe: str | None,
    context: int | None,
    cache_dtype: str | None,
    as_json: bool,
) -> None:
    """Tell what the model of a config.json would take on a board, and whether it fits."""
    require_extra("export", "Planning")
    from edgewise.exporter.forecast import forecast, read_configuration
    from edgewise.firmware_profiles import load_profile

    board = load_profile(profile)
    found = forecast(
        read_configuration(config),
        board,
        name=_name_of(config),
        runtime=runtime,
        recipe=recipe,
        context_length=context,
        cache_dtype=cache_dtype,
    )
    if as_json:
        console.write_json(forecast_json(found))
    else:
        show(found)


def _name_of(config: Path) -> str:
    """Call a model by its folder, or by the file if that has a name of its own."""
    path = config.resolve()
    return path.parent.name if path.name == "config.json" else path.stem or path.name


def forecast_json(found: Forecast) -> dict[str, Any]:
    """Return a forecast in the types of JSON; sizes in bytes."""
    plan, budget = found.plan, found.budget
    return {
        "model_id": plan.model_id,
        "architecture": plan.architecture,
        "family": plan.family,
        "parameters": plan.parameters,
        "profile": plan.profile.qualified_name,
        "runtime": plan.runtime,
        "recipe": str(plan.recipe),
        "formats": dict(plan.formats),
        "context_length": plan.context_length,
        "weights_bytes": budget.weights_bytes,
        "weights_bytes_by_role": dict(found.role_bytes),
        "cache_dtype": None if plan.cache is None else plan.cache.dtype,
        "cache_bytes_per_token": budget.cache_bytes_per_token,
        "cache_bytes": budget.cache_bytes,
        "source_length": plan.source_length,
        "working_bytes": budget.working_bytes,
        "overhead_bytes": budget.overhead_bytes,
        "total_bytes": budget.total_bytes,
        "usable_bytes": budget.usable_bytes,
        "spare_bytes": found.spare_bytes,
        "fits": budget.fits,
        "advice": list(found.advice),
    }


def show(found: Forecast) -> None:
    """Write a forecast for people."""
    plan, budget = found.plan, found.budget
    roles = ", ".join(f"{role} {figures.size(count)}" for role, count in found.role_bytes.items())
    verdict = (
        f"yes, {figures.size(found.spare_bytes)} to spare"
        if budget.fits
        else f"no, {figures.size(-found.spare_bytes)} too much"
    )
    cache = (
        f"{figures.size(budget.cache_bytes)} for {plan.context_length} tokens of "
        f"{figures.size(budget.cache_bytes_per_token)} in {plan.cache_dtype}"
    )
    given = "an image" if plan.family == "vision_language" else "a text"
    work = f"{figures.size(budget.working_bytes)} on {given} of {budget.working_tokens} tokens"
    rows = [
        ("model", f"{plan.model_id}, {plan.architecture}, {figures.parameters(plan.parameters)}"),
        ("profile", plan.profile.qualified_name),
        ("runtime", plan.runtime),
        ("recipe", str(plan.recipe)),
        ("weights", f"{figures.size(budget.weights_bytes)} ({roles})"),
        *([("cache", cache)] if budget.cache_bytes_per_token else []),
        *([("work", work)] if budget.working_bytes else []),
        ("runtime's own", figures.size(budget.overhead_bytes)),
        ("together", f"{figures.size(budget.total_bytes)} at the peak"),
        ("usable", figures.size(budget.usable_bytes)),
        ("fits", verdict),
    ]
    rows += [("instead", advice) for advice in found.advice]
    console.write_table(rows)

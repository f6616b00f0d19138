"""``edgewise bench``: how fast a bundle is on this machine, and how much memory it takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgewise.cli import console, figures
from edgewise.cli.parameters import bundle_argument, examples, json_option, threads_option
from edgewise.cli.progress import StageBars

if TYPE_CHECKING:
    from edgewise.device.profiler import BenchReport, Spread


@click.command(
    short_help="Measure a bundle on this machine.",
    epilog=examples(
        "edgewise bench smollm2",
        "edgewise bench smollm2 --prompt-tokens 64 --new-tokens 16 --rounds 2",
        "edgewise bench smollm2 --history 512 --history 1024 --threads 2 --json",
    ),
)
@bundle_argument
@click.option(
    "--prompt-tokens",
    type=int,
    metavar="N",
    help="Tokens of the prompt; default 512, or less where the context is short.",
)
@click.option(
    "--new-tokens",
    type=int,
    metavar="N",
    help="Tokens to generate; default 128, or less where the context is short.",
)
@click.option(
    "--history",
    type=int,
    multiple=True,
    metavar="N",
    help="Measure again with N tokens in the cache before the prompt; may be given several times.",
)
@click.option(
    "--rounds", type=int, default=5, show_default=True, metavar="N", help="Measurements of each."
)
@threads_option
@json_option
def bench(
    *,
    bundle: Path,
    prompt_tokens: int | None,
    new_tokens: int | None,
    history: tuple[int, ...],
    rounds: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the bundle in the folder BUNDLE on this machine.

    Prefill and decode are the engine's own, with random tokens; "decode to text" is what an
    application gets, with sampling and text. Load time, cold start and memory are those of fresh
    processes; the files may be in the system's cache. Each figure is a median with its
    [least-most].
    """
    from edgewise.device.profiler import profile_bundle

    with StageBars() as bars:
        report = profile_bundle(
            bundle,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            history=history,
            rounds=rounds,
            threads=threads,
            progress=bars,
        )
    if as_json:
        console.write_json(dataclasses.asdict(report))
    else:
        show(report)


def show(report: BenchReport) -> None:
    """Write a report for people."""
    console.write_line(
        f"{report.model_id}, {report.recipe}, {report.runtime}, "
        f"{figures.plural(report.threads, 'thread')}; {report.prompt_tokens} prompt tokens, "
        f"{report.new_tokens} new tokens, {figures.plural(report.rounds, 'round')}"
    )
    rows = []
    for depth in report.depths:
        behind = f" after {depth.history}" if depth.history else ""
        rows.append((f"prefill{behind}", _speed(depth.prefill_tokens_per_second)))
        rows.append((f"decode{behind}", _speed(depth.decode_tokens_per_second)))
    rows += [
        ("decode to text", _speed(report.text_decode_tokens_per_second)),
        ("load", _time(report.load_seconds)),
        ("cold start to first token", _time(report.cold_start_seconds)),
        ("peak RSS", figures.mebibytes(report.peak_rss_bytes)),
        ("anonymous RSS", figures.mebibytes(report.anonymous_rss_bytes)),
    ]
    console.write_table(rows, indent=2)


def _speed(spread: Spread) -> str:
    return f"{spread.median:.1f} tokens/s [{spread.least:.1f}-{spread.most:.1f}]"


def _time(spread: Spread) -> str:
    least, most = figures.seconds(spread.least), figures.seconds(spread.most)
    return f"{figures.seconds(spread.median)} [{least}-{most}]"

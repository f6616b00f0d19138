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
    from edgewise.device.bench import AnyReport
    from edgewise.device.encoder_profiler import EncoderReport
    from edgewise.device.profiler import DecoderReport
    from edgewise.device.sequence_profiler import SequenceReport
    from edgewise.device.spread import Spread


@click.command(
    short_help="Measure a bundle on this machine.",
    epilog=examples(
        "edgewise bench smollm2",
        "edgewise bench smollm2 --prompt-tokens 64 --new-tokens 16 --rounds 2",
        "edgewise bench smollm2 --history 512 --history 1024 --threads 2 --json",
        "edgewise bench minilm --length 16 --length 128",
    ),
)
@bundle_argument
@click.option(
    "--prompt-tokens",
    type=int,
    metavar="N",
    help="Tokens of the prompt, or of a source; default 512 or 128, or what there is room for.",
)
@click.option(
    "--new-tokens",
    type=int,
    metavar="N",
    help="Tokens to generate; default 128 or 64, or what there is room for.",
)
@click.option(
    "--history",
    type=int,
    multiple=True,
    metavar="N",
    help="Measure again with N tokens in the cache before the prompt; may be given several times.",
)
@click.option(
    "--length",
    "lengths",
    type=int,
    multiple=True,
    metavar="N",
    help="Measure an encoder with texts of N tokens; may be given several times.",
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
    lengths: tuple[int, ...],
    rounds: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the bundle in the folder BUNDLE on this machine.

    The engine's own figures come with random tokens: prefill and decode of a decoder, encode and
    decode of an encoder-decoder, latency and throughput of an encoder by length. "Decode to text"
    is what an application gets, with sampling and text. Load time, cold start and memory are those
    of fresh processes; the files may be in the system's cache. Each figure is a median with its
    [least-most].
    """
    from edgewise.device.bench import bench_bundle

    with StageBars() as bars:
        report = bench_bundle(
            bundle,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            history=history,
            lengths=lengths,
            rounds=rounds,
            threads=threads,
            progress=bars,
        )
    if as_json:
        console.write_json(dataclasses.asdict(report))
    else:
        show(report)


def show(report: AnyReport) -> None:
    """Write a report for people."""
    from edgewise.device.encoder_profiler import EncoderReport
    from edgewise.device.sequence_profiler import SequenceReport

    if isinstance(report, EncoderReport):
        size, rows = _encoder(report)
    elif isinstance(report, SequenceReport):
        size, rows = _sequence(report)
    else:
        size, rows = _decoder(report)
    console.write_line(
        f"{report.model_id}, {report.recipe}, {report.runtime}, "
        f"{figures.plural(report.threads, 'thread')}; {size}, "
        f"{figures.plural(report.rounds, 'round')}"
    )
    rows += [
        ("load", _time(report.load_seconds)),
        ("cold start to first token", _time(report.cold_start_seconds)),
        ("peak RSS", figures.mebibytes(report.peak_rss_bytes)),
        ("anonymous RSS", figures.mebibytes(report.anonymous_rss_bytes)),
    ]
    console.write_table(rows, indent=2)


def _decoder(report: DecoderReport) -> tuple[str, list[tuple[str, str]]]:
    rows = []
    for depth in report.depths:
        behind = f" after {depth.history}" if depth.history else ""
        rows.append((f"prefill{behind}", _speed(depth.prefill_tokens_per_second)))
        rows.append((f"decode{behind}", _speed(depth.decode_tokens_per_second)))
    if report.text_decode_tokens_per_second is not None:
        rows.append(("decode to text", _speed(report.text_decode_tokens_per_second)))
    return f"{report.prompt_tokens} prompt tokens, {report.new_tokens} new tokens", rows


def _sequence(report: SequenceReport) -> tuple[str, list[tuple[str, str]]]:
    rows = [
        ("encode", _time(report.encode_seconds)),
        ("decode", _speed(report.decode_tokens_per_second)),
        ("decode to text", _speed(report.text_decode_tokens_per_second)),
    ]
    return f"{report.source_tokens} source tokens, {report.new_tokens} new tokens", rows


def _encoder(report: EncoderReport) -> tuple[str, list[tuple[str, str]]]:
    rows = []
    for length in report.lengths:
        latency = length.latency_seconds
        p50, p90, p99 = map(figures.seconds, (latency.p50, latency.p90, latency.p99))
        rows.append((f"{length.tokens} tokens, one text", f"{p50}, p90 {p90}, p99 {p99}"))
        rows.append(
            (f"{length.tokens} tokens, batches", _speed(length.texts_per_second, "texts/s"))
        )
    return f"batches of {report.batch}", rows


def _speed(spread: Spread, unit: str = "tokens/s") -> str:
    return f"{spread.median:.1f} {unit} [{spread.least:.1f}-{spread.most:.1f}]"


def _time(spread: Spread) -> str:
    least, most = figures.seconds(spread.least), figures.seconds(spread.most)
    return f"{figures.seconds(spread.median)} [{least}-{most}]"

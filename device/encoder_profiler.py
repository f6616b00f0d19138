"""Measures the bundle of an encoder on the machine it lies on.

Workflow: a few fresh processes for start and memory (start_figures.py), then for each length of
text the engine's latency, one text a call, and its throughput, a batch a call.

Rules: token ids are random, from a fixed seed. A length is that of the whole sequence, with the
tokens around the text. Latency is told by percentiles of single calls, for those who wait for one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewise.device.bench_report import BenchReport, common_figures
from edgewise.device.spread import (
    Percentiles,
    ProfilerError,
    Progress,
    Spread,
    check_rounds,
    tell_nobody,
)
from edgewise.device.start_figures import measure_starts
from edgewise.runtime.bundle import Manifest, open_bundle

DEFAULT_LENGTHS = (16, 64, 256, 512)  # tokens, as far as the context holds them
CALLS_A_ROUND = 10  # of one text
BATCH = 8  # texts of a call whose throughput is measured; as many as the runtime takes together
SEED = 20_260_101


@dataclass(frozen=True)
class LengthFigures:
    """The engine's speed with texts of one length.

    Attributes:
        tokens: Of a text, those around it included.
        latency_seconds: Of a call with one text.
        texts_per_second: With as many texts a call as the report's ``batch`` says.
    """

    tokens: int
    latency_seconds: Percentiles
    texts_per_second: Spread


@dataclass(frozen=True, kw_only=True)
class EncoderReport(BenchReport):
    """What the bundle of an encoder does on this machine.

    Attributes:
        rounds: Measurements of each throughput; of each latency, ten times as many.
        batch: Texts of a call whose throughput is measured.
        lengths: The engine's speeds by length, ascending.
    """

    batch: int
    lengths: tuple[LengthFigures, ...]


def profile_encoder(
    path: str | os.PathLike[str],
    *,
    lengths: Sequence[int] = (),
    rounds: int = 5,
    threads: int | None = None,
    progress: Progress | None = None,
) -> EncoderReport:
    """Measure the bundle of an encoder.

    Args:
        path: The bundle's folder.
        lengths: Tokens of the texts; none: 16, 64, 256 and 512, or what the context has room for.
        rounds: Measurements of each throughput.
        threads: As for `edgewise.runtime.load`.
        progress: Told of each step.

    Raises:
        ProfilerError: The numbers make no sense, or the context has no room for them.
        EdgewiseError: The bundle can not be loaded.
    """
    report = progress if progress is not None else tell_nobody
    check_rounds(rounds)
    manifest = open_bundle(path).manifest
    settled = _settled(manifest, lengths)
    starts = measure_starts(
        Path(path),
        rounds=rounds,
        threads=threads,
        prompt_tokens=settled[-1],
        new_tokens=0,
        progress=report,
    )
    used_threads, figures = _measure(path, settled, rounds, threads, report)
    return EncoderReport(
        **common_figures(manifest, starts, threads=used_threads, rounds=rounds),
        batch=BATCH,
        lengths=figures,
    )


def _settled(manifest: Manifest, lengths: Sequence[int]) -> tuple[int, ...]:
    context = manifest.context_length
    if not lengths:
        return tuple(sorted({min(length, context) for length in DEFAULT_LENGTHS}))
    for length in lengths:
        if not 1 <= length <= context:
            raise ProfilerError(
                f"a length is {length} tokens; accepted: 1 to {context}, which the context of "
                f"{manifest.model_id} holds."
            )
    return tuple(sorted(set(lengths)))


def _measure(
    path: str | os.PathLike[str],
    lengths: Sequence[int],
    rounds: int,
    threads: int | None,
    report: Progress,
) -> tuple[int, tuple[LengthFigures, ...]]:
    from edgewise.runtime.engine_timing import (  # noqa: PLC0415 - loads numpy and the tokenizer
        encode_seconds,
        load_with_engine,
    )

    source = random.Random(SEED)  # noqa: S311 - no secret: the ids of a measurement
    steps = rounds * len(lengths)
    report("measure", 0, steps)
    loaded = load_with_engine(path, threads=threads)
    size = loaded.model.manifest.vocabulary_size

    def random_ids(texts: int, tokens: int) -> list[list[int]]:
        return [[source.randrange(size) for _ in range(tokens)] for _ in range(texts)]

    found = []
    with loaded.model:
        for place, tokens in enumerate(lengths):
            # The first calls of a length allocate and warm caches; they stand for no later one.
            encode_seconds(loaded.engine, random_ids(1, tokens))
            encode_seconds(loaded.engine, random_ids(BATCH, tokens))
            latencies, rates = [], []
            for number in range(rounds):
                latencies += [
                    encode_seconds(loaded.engine, random_ids(1, tokens))
                    for _ in range(CALLS_A_ROUND)
                ]
                rates.append(BATCH / encode_seconds(loaded.engine, random_ids(BATCH, tokens)))
                report("measure", place * rounds + number + 1, steps)
            found.append(LengthFigures(tokens, Percentiles.of(latencies), Spread.of(rates)))
    return loaded.threads, tuple(found)

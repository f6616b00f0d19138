"""Measures the bundle of an encoder-decoder on the machine it lies on.

Workflow: a few fresh processes for start and memory (start_figures.py), then, round by round, the
engine reading a source, its decoder's steps, and decoding the way an application gets it.

Rules: as for decoders (profiler.py): random token ids from a fixed seed; "decode to text" goes
through the same session as every answer, so that the difference is what Python costs.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edgewise.device.bench_report import BenchReport, common_figures
from edgewise.device.spread import (
    ProfilerError,
    Progress,
    Spread,
    check_counts,
    check_rounds,
    tell_nobody,
)
from edgewise.device.start_figures import measure_starts
from edgewise.runtime.bundle import Manifest, open_bundle, source_size

DEFAULT_SOURCE_TOKENS = 128
DEFAULT_NEW_TOKENS = 64
SEED = 20_260_101


@dataclass(frozen=True, kw_only=True)
class SequenceReport(BenchReport):
    """What the bundle of an encoder-decoder does on this machine.

    Attributes:
        source_tokens: Tokens of each source.
        new_tokens: Tokens decoded for it.
        encode_seconds: Reading a source: its encoder, and what the decoder attends to.
        decode_tokens_per_second: The decoder's steps, one token each.
        text_decode_tokens_per_second: Decoding as an application gets it: sampling (greedy) and
            text included.
    """

    source_tokens: int
    new_tokens: int
    encode_seconds: Spread
    decode_tokens_per_second: Spread
    text_decode_tokens_per_second: Spread


def profile_sequence_model(
    path: str | os.PathLike[str],
    *,
    source_tokens: int | None = None,
    new_tokens: int | None = None,
    rounds: int = 5,
    threads: int | None = None,
    progress: Progress | None = None,
) -> SequenceReport:
    """Measure the bundle of an encoder-decoder.

    Args:
        path: The bundle's folder.
        source_tokens: Tokens of a source; None: 128, or what the model reads.
        new_tokens: Tokens to decode; None: 64, or what the context has room for.
        rounds: Measurements of each figure.
        threads: As for `edgewise.runtime.load`.
        progress: Told of each step.

    Raises:
        ProfilerError: The numbers make no sense, or there is no room for them.
        EdgewiseError: The bundle can not be loaded.
    """
    report = progress if progress is not None else tell_nobody
    check_rounds(rounds)
    manifest = open_bundle(path).manifest
    source, new = _settled(manifest, source_tokens, new_tokens)
    starts = measure_starts(
        Path(path),
        rounds=rounds,
        threads=threads,
        prompt_tokens=source,
        new_tokens=new,
        progress=report,
    )
    speeds = _measure(path, source, new, rounds, threads, report)
    return SequenceReport(
        **common_figures(manifest, starts, threads=speeds.threads, rounds=rounds),
        source_tokens=source,
        new_tokens=new,
        encode_seconds=speeds.encode,
        decode_tokens_per_second=speeds.decode,
        text_decode_tokens_per_second=speeds.text,
    )


def _settled(manifest: Manifest, source: int | None, new: int | None) -> tuple[int, int]:
    check_counts(prompt_tokens=source, new_tokens=new)
    longest = source_size(manifest)
    # One more is decoded to text: the first, whose time is not counted.
    most = manifest.context_length - 1
    source = min(DEFAULT_SOURCE_TOKENS, longest) if source is None else source
    new = min(DEFAULT_NEW_TOKENS, most) if new is None else new
    if source > longest or new > most:
        raise ProfilerError(
            f"{source} tokens of a source and {new} new ones are asked for; {manifest.model_id} "
            f"reads {longest} and has room for {most}, so take fewer."
        )
    return source, new


@dataclass(frozen=True)
class _Speeds:
    threads: int
    encode: Spread
    decode: Spread
    text: Spread


def _measure(
    path: str | os.PathLike[str],
    source_tokens: int,
    new_tokens: int,
    rounds: int,
    threads: int | None,
    report: Progress,
) -> _Speeds:
    from edgewise.runtime import SequenceModel  # noqa: PLC0415 - loads numpy and the tokenizer
    from edgewise.runtime.engine_timing import (  # noqa: PLC0415 - as above
        answer_rate,
        load_with_engine,
        read_source_seconds,
    )
    from edgewise.runtime.step_timing import decode_seconds  # noqa: PLC0415 - as above

    randomness = random.Random(SEED)  # noqa: S311 - no secret: the ids of a measurement
    report("measure", 0, rounds)
    loaded = load_with_engine(path, threads=threads)
    engine = loaded.engine

    def random_ids(count: int) -> list[int]:
        return [randomness.randrange(engine.vocabulary_size) for _ in range(count)]

    encodes, decodes, texts = [], [], []
    with loaded.model:
        model = cast("SequenceModel", loaded.model)
        # The first calls allocate, bind and warm caches; they stand for no later one.
        read_source_seconds(engine, random_ids(source_tokens))
        decode_seconds(engine, random_ids(1), past=0)
        for number in range(rounds):
            ids = random_ids(source_tokens)
            encodes.append(read_source_seconds(engine, ids))
            decodes.append(new_tokens / decode_seconds(engine, random_ids(new_tokens), past=0))
            texts.append(answer_rate(model, engine, ids, new_tokens=new_tokens))
            report("measure", number + 1, rounds)
    return _Speeds(loaded.threads, Spread.of(encodes), Spread.of(decodes), Spread.of(texts))

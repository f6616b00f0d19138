"""Measures the bundle of a decoder on the machine it lies on.

Workflow: `profile_bundle` starts a few fresh processes for load time, cold start and memory
(start_figures.py), then loads the bundle itself and measures, round by round, the engine's prefill
and decode at each depth of the cache, and decoding the way an application gets it.

Rules: the engine's figures are taken with random token ids from a fixed seed and without sampling;
"decode to text" goes through the same session as every answer, sampler and detokenizer included,
so that the difference is what Python costs. Fresh processes measure memory, because this one may
have held other things. Every figure of several rounds is a spread, never a best case.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from edgewise.runtime.bundle import Manifest, open_bundle

DEFAULT_PROMPT_TOKENS = 512
DEFAULT_NEW_TOKENS = 128
SEED = 20_260_101


@dataclass(frozen=True)
class DepthFigures:
    """The engine's speed with some tokens in the cache already.

    Attributes:
        history: Tokens in the cache before the prompt.
        prefill_tokens_per_second: Reading the prompt behind them.
        decode_tokens_per_second: One token a step behind the prompt.
    """

    history: int
    prefill_tokens_per_second: Spread
    decode_tokens_per_second: Spread


@dataclass(frozen=True, kw_only=True)
class DecoderReport(BenchReport):
    """What the bundle of a decoder does on this machine.

    Attributes:
        prompt_tokens: Tokens of each prompt.
        new_tokens: Tokens decoded after it.
        depths: The engine's speeds; the first is that of an empty cache.
        text_decode_tokens_per_second: Decoding with an empty cache as an application gets it:
            sampling (greedy) and text included; None where the model scores texts.
    """

    prompt_tokens: int
    new_tokens: int
    depths: tuple[DepthFigures, ...]
    text_decode_tokens_per_second: Spread | None


def profile_bundle(
    path: str | os.PathLike[str],
    *,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    history: Sequence[int] = (),
    rounds: int = 5,
    threads: int | None = None,
    progress: Progress | None = None,
) -> DecoderReport:
    """Measure a bundle.

    Args:
        path: The bundle's folder.
        prompt_tokens: Tokens of the prompt; None: 512, or what the context has room for.
        new_tokens: Tokens to decode; None: 128, or a quarter of a shorter context.
        history: Further depths of the cache at which to measure; an empty one always is.
        rounds: Measurements of each figure.
        threads: As for `edgewise.runtime.load`.
        progress: Told of each step.

    Returns:
        The figures.

    Raises:
        ProfilerError: The numbers make no sense, or the context has no room for them.
        EdgewiseError: The bundle can not be loaded.
    """
    report = progress if progress is not None else tell_nobody
    check_rounds(rounds)
    manifest = open_bundle(path).manifest
    lengths = _Lengths.settle(manifest, prompt_tokens, new_tokens, history)
    starts = measure_starts(
        Path(path),
        rounds=rounds,
        threads=threads,
        prompt_tokens=lengths.prompt,
        new_tokens=lengths.new,
        progress=report,
    )
    speeds = _measure_speeds(path, lengths, rounds, threads, report)
    return DecoderReport(
        **common_figures(manifest, starts, threads=speeds.threads, rounds=rounds),
        prompt_tokens=lengths.prompt,
        new_tokens=lengths.new,
        depths=speeds.depths,
        text_decode_tokens_per_second=speeds.text_decode,
    )


@dataclass(frozen=True)
class _Lengths:
    """Tokens of each part of a measurement, which together fit into the context."""

    prompt: int
    new: int
    histories: tuple[int, ...]  # ascending, the first is 0

    @classmethod
    def settle(
        cls,
        manifest: Manifest,
        prompt: int | None,
        new: int | None,
        histories: Sequence[int],
    ) -> _Lengths:
        context = manifest.context_length
        check_counts(prompt_tokens=prompt, new_tokens=new)
        if wrong := [value for value in histories if value < 0]:
            raise ProfilerError(f"history is {wrong[0]}; accepted: a whole number from 0.")
        deepest = max(histories, default=0)
        if new is None:
            new = min(DEFAULT_NEW_TOKENS, max(1, (context - deepest) // 4))
        if prompt is None:
            prompt = min(DEFAULT_PROMPT_TOKENS, max(1, context - deepest - new))
        total = deepest + prompt + new
        if total > context:
            raise ProfilerError(
                f"{deepest} tokens of history, {prompt} of prompt and {new} new ones are {total}; "
                f"the context of {manifest.model_id} holds {context}, so take fewer."
            )
        return cls(prompt, new, tuple(sorted({0, *histories})))


@dataclass(frozen=True)
class _Speeds:
    threads: int
    depths: tuple[DepthFigures, ...]
    text_decode: Spread | None


def _measure_speeds(
    path: str | os.PathLike[str],
    lengths: _Lengths,
    rounds: int,
    threads: int | None,
    report: Progress,
) -> _Speeds:
    from edgewise.runtime.step_timing import (  # noqa: PLC0415 - loads numpy and the tokenizer
        decode_seconds,
        load_for_timing,
        prefill_seconds,
        text_decode_rate,
    )

    source = random.Random(SEED)  # noqa: S311 - no secret: the ids of a measurement
    steps = rounds * len(lengths.histories)
    report("measure", 0, steps)
    loaded = load_for_timing(path, threads=threads)
    backend = loaded.backend

    def random_ids(count: int) -> list[int]:
        return [source.randrange(backend.vocabulary_size) for _ in range(count)]

    generates = "generate" in loaded.model.manifest.tasks
    with loaded.model:
        # The first steps allocate, bind and warm caches; they stand for no later one.
        prefill_seconds(backend, random_ids(lengths.prompt))
        decode_seconds(backend, random_ids(1), past=lengths.prompt)
        depths, texts = [], []
        for place, history in enumerate(lengths.histories):
            if history:
                prefill_seconds(backend, random_ids(history))
            prefills, decodes = [], []
            for number in range(rounds):
                past = history + lengths.prompt
                ids = random_ids(lengths.prompt)
                prefills.append(lengths.prompt / prefill_seconds(backend, ids, past=history))
                decodes.append(
                    lengths.new / decode_seconds(backend, random_ids(lengths.new), past=past)
                )
                if not history and generates:
                    texts.append(text_decode_rate(loaded, ids, new_tokens=lengths.new))
                report("measure", place * rounds + number + 1, steps)
            depths.append(DepthFigures(history, Spread.of(prefills), Spread.of(decodes)))
    return _Speeds(loaded.threads, tuple(depths), Spread.of(texts) if texts else None)

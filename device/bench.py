"""Measuring any bundle: which profiler fits its family, and what each of them takes.

Rule: what has no meaning for the family is refused, so that nobody reads figures of something else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

from edgewise.device.encoder_profiler import EncoderReport, profile_encoder
from edgewise.device.profiler import DecoderReport, profile_bundle
from edgewise.device.sequence_profiler import SequenceReport, profile_sequence_model
from edgewise.device.spread import ProfilerError, Progress
from edgewise.runtime.bundle import Manifest, open_bundle

AnyReport: TypeAlias = DecoderReport | EncoderReport | SequenceReport


def bench_bundle(
    path: str | os.PathLike[str],
    *,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    history: Sequence[int] = (),
    lengths: Sequence[int] = (),
    rounds: int = 5,
    threads: int | None = None,
    progress: Progress | None = None,
) -> AnyReport:
    """Measure a bundle.

    Args:
        path: The bundle's folder.
        prompt_tokens: Tokens of a prompt, or of an encoder-decoder's source.
        new_tokens: Tokens to decode.
        history: Of a decoder: further depths of the cache at which to measure.
        lengths: Of an encoder: tokens of the texts.
        rounds: Measurements of each figure.
        threads: As for `edgewise.runtime.load`.
        progress: Told of each step.

    Raises:
        ProfilerError: The numbers make no sense for this bundle.
        EdgewiseError: The bundle can not be loaded.
    """
    manifest = open_bundle(path).manifest
    family = manifest.family
    if family == "encoder":
        _refuse(manifest, prompt_tokens=prompt_tokens, new_tokens=new_tokens, history=history)
        return profile_encoder(
            path, lengths=lengths, rounds=rounds, threads=threads, progress=progress
        )
    _refuse(manifest, lengths=lengths)
    if family == "encoder_decoder":
        _refuse(manifest, history=history)
        return profile_sequence_model(
            path,
            source_tokens=prompt_tokens,
            new_tokens=new_tokens,
            rounds=rounds,
            threads=threads,
            progress=progress,
        )
    return profile_bundle(
        path,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        history=history,
        rounds=rounds,
        threads=threads,
        progress=progress,
    )


def _refuse(manifest: Manifest, **given: int | Sequence[int] | None) -> None:
    names = [name for name, value in given.items() if value not in (None, (), [])]
    if names:
        raise ProfilerError(
            f"{', '.join(names)}: without meaning for {manifest.model_id}, which is of the family "
            f"{manifest.family.replace('_', '-')}."
        )

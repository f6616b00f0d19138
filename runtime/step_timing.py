"""How long an engine takes for its steps, with nothing around them, and with all that goes with it.

Workflow: `load_for_timing` a bundle; then `prefill_seconds` and `decode_seconds` time the bare
engine at any depth of slot 0, and `text_decode_rate` times a whole session, sampling and text
included. Rules: the token ids are the caller's; what they are does not change the time. Each call
may overwrite what the slot holds from its own past on.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from edgewise.runtime.backends.protocol import Backend
from edgewise.runtime.chunks import PREFILL_CHUNK
from edgewise.runtime.engine_timing import greedy_options, load_with_engine
from edgewise.runtime.language_model import LanguageModel
from edgewise.runtime.model import ModelError
from edgewise.runtime.sessions.decoder import DecoderSession


@dataclass(frozen=True)
class TimedModel:
    """A loaded model together with the engine inside it."""

    model: LanguageModel
    backend: Backend
    threads: int  # that compute


def load_for_timing(path: str | os.PathLike[str], *, threads: int | None = None) -> TimedModel:
    """Load a bundle as `edgewise.runtime.load` does, and keep hold of its engine.

    Args:
        path: The bundle's folder.
        threads: As for `load`.

    Raises:
        EdgewiseError: As `load`.
    """
    loaded = load_with_engine(path, threads=threads)
    model = loaded.model
    if not isinstance(model, LanguageModel):
        model.close()
        raise ModelError(
            f"{model.manifest.model_id} is an {model.manifest.family}; accepted here: a decoder"
        )
    return TimedModel(model, loaded.engine, loaded.threads)


def prefill_seconds(
    backend: Backend, token_ids: Sequence[int], *, past: int = 0, chunk: int = PREFILL_CHUNK
) -> float:
    """Time the reading of a prompt into slot 0, in the chunks in which the runtime reads it.

    Args:
        backend: The engine.
        token_ids: The prompt, at least one id.
        past: Tokens of the slot that stay before it.
        chunk: Tokens in one step.

    Returns:
        Seconds.
    """
    prompt = np.array(token_ids, np.int64)[None]  # [1, prompt]
    lengths = np.empty(1, np.int32)
    begin = perf_counter()
    for start in range(0, prompt.shape[1], chunk):
        lengths[0] = past + start
        backend.step(0, prompt[:, start : start + chunk], lengths)
    return perf_counter() - begin


def decode_seconds(backend: Backend, token_ids: Sequence[int], *, past: int) -> float:
    """Time one step a token in slot 0.

    Args:
        backend: The engine.
        token_ids: What is fed, one id a step, at least one.
        past: Tokens of the slot that stay before them.

    Returns:
        Seconds for all of them.
    """
    steps = np.array(token_ids, np.int64)[:, None, None]  # [steps, 1, 1]
    lengths = np.empty(1, np.int32)
    begin = perf_counter()
    for index, token in enumerate(steps):
        lengths[0] = past + index
        backend.step(0, token, lengths)
    return perf_counter() - begin


def text_decode_rate(timed: TimedModel, token_ids: Sequence[int], *, new_tokens: int) -> float:
    """Return the speed at which an application gets tokens: greedy sampling and text included.

    Args:
        timed: The loaded model; none of its generations may be running.
        token_ids: The prompt, at least one id.
        new_tokens: Tokens to decode after the first; end tokens do not end the measurement.

    Returns:
        Tokens a second.
    """
    manifest = timed.model.manifest
    endless = dataclasses.replace(manifest, tokens=dataclasses.replace(manifest.tokens, end=()))
    session = DecoderSession(timed.backend, timed.model.tokenizer, endless)
    answer = session.generate(token_ids, greedy_options(new_tokens + 1))
    return answer.statistics.decode_tokens_per_second

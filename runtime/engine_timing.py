"""How long the engines of encoders and encoder-decoders take, with nothing around them.

Workflow: `load_with_engine` a bundle of any family; then `encode_seconds` times an encoder,
`read_source_seconds` the encoder of an encoder-decoder, whose steps step_timing.py times, and
`answer_rate` a whole answer with sampling and text. Rule: the token ids are the caller's; what they
are does not change the time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewise.runtime.bundle import Bundle
from edgewise.runtime.engines import engine_factory
from edgewise.runtime.loading import load
from edgewise.runtime.options import GenerationOptions

if TYPE_CHECKING:  # a cold start, which is measured from here, imports what it needs itself
    from edgewise.runtime.backends.protocol import EncoderBackend, EncoderDecoderBackend
    from edgewise.runtime.loading import AnyModel
    from edgewise.runtime.sequence_model import SequenceModel


@dataclass(frozen=True)
class LoadedEngine:
    """A loaded model together with the engine inside it."""

    model: AnyModel
    engine: Any  # what protocol.py asks of the model's family
    threads: int  # that compute


def load_with_engine(path: str | os.PathLike[str], *, threads: int | None = None) -> LoadedEngine:
    """Load a bundle as `edgewise.runtime.load` does, and keep hold of its engine.

    Args:
        path: The bundle's folder.
        threads: As for `load`.

    Raises:
        EdgewiseError: As `load`.
    """
    made: list[tuple[Any, int]] = []

    def factory(bundle: Bundle, *, threads: int, capacity: int, **more: Any) -> Any:
        make = engine_factory(bundle.manifest, keep_packed=True)
        engine = make(bundle, threads=threads, capacity=capacity, **more)
        made.append((engine, threads))
        return engine

    model = load(path, threads=threads, backend=factory)
    engine, used_threads = made[0]
    return LoadedEngine(model, engine, used_threads)


def encode_seconds(engine: EncoderBackend, token_ids: Sequence[Sequence[int]]) -> float:
    """Time one call of an encoder.

    Args:
        engine: The engine.
        token_ids: At least one text, all of the same number of tokens.

    Returns:
        Seconds.
    """
    ids = np.array(token_ids, np.int64)  # [texts, tokens]
    counts = np.full(len(ids), ids.shape[1], np.int32)
    begin = perf_counter()
    engine.encode(ids, counts)
    return perf_counter() - begin


def read_source_seconds(engine: EncoderDecoderBackend, token_ids: Sequence[int]) -> float:
    """Time the reading of a source into slot 0.

    Args:
        engine: The engine.
        token_ids: The source, at least one id.

    Returns:
        Seconds.
    """
    ids = np.array([token_ids], np.int64)  # [1, source]
    counts = np.array([ids.shape[1]], np.int32)
    begin = perf_counter()
    engine.read_source(0, ids, counts)
    return perf_counter() - begin


def answer_rate(
    model: SequenceModel,
    engine: EncoderDecoderBackend,
    source_ids: Sequence[int],
    *,
    new_tokens: int,
) -> float:
    """Return the speed at which an application gets tokens: greedy sampling and text included.

    Args:
        model: Whose engine it is; none of its generations may be running.
        engine: The engine.
        source_ids: The source, at least one id.
        new_tokens: Tokens to decode after the first; end tokens do not end the measurement.

    Returns:
        Tokens a second.
    """
    from edgewise.runtime.sessions.seq2seq import SequenceSession  # noqa: PLC0415 - as above
    from edgewise.runtime.token_rules import TokenRules  # noqa: PLC0415 - as above

    start = model.manifest.tokens.start
    if start is None:
        raise ValueError("the manifest of an encoder-decoder has a start token; its checks say so")
    endless = TokenRules(end=(), sampled=model.manifest.sampled_vocabulary)
    session = SequenceSession(engine, model.tokenizer, endless, start=start)
    answer = session.generate(source_ids, greedy_options(new_tokens + 1))
    return answer.statistics.decode_tokens_per_second


def greedy_options(max_tokens: int) -> GenerationOptions:
    """Take the most probable token at each step, whatever the bundle advises."""
    return GenerationOptions(
        max_tokens=max_tokens,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repetition_penalty=1.0,
    )

"""Which graphs the TFLite file of a decoder holds: for how many tokens, behind how much cache."""

from __future__ import annotations

from dataclasses import dataclass

from edgewise.exporter.graph.tflite_weights import LITERT, TFLITE_RUNTIME, Release

SMALLEST_DECODE_CACHE = 256  # positions
SMALLEST_PREFILL_CACHE = 512  # positions
PREFILL_TOKENS, SHORT_PREFILL_TOKENS = 128, 32
VERIFY_TOKENS = 8  # the longest draft and the certain token before it; kernels take 4 or 8 rows


@dataclass(frozen=True)
class Signature:
    """One graph of a model: how many tokens it takes, behind how many positions of cache."""

    tokens: int
    cache: int
    verifies: bool = False  # whether it gives the logits of every token, not of the last alone

    @property
    def name(self) -> str:
        """Return "decode_256", "prefill_128", "prefill_128_1024" or "verify_8_256"."""
        if self.verifies:
            return f"verify_{self.tokens}_{self.cache}"
        if self.tokens == 1:
            return f"decode_{self.cache}"
        return f"prefill_{self.tokens}" + (f"_{self.cache}" if self.cache else "")


def signatures(
    context_length: int, release: Release = LITERT, *, drafts: bool = False
) -> tuple[Signature, ...]:
    """Choose the graphs of a model.

    Decoding has a cache of 256 positions, its doubles and the context. A prompt is read in chunks
    of 128: the first without a cache, the next behind 512 positions. Later chunks and a short rest
    are of 32 behind the whole context: attending to it takes as long for every token, and 128 at
    once are 2% faster there (SmolLM2-135M, 2048 positions). Every graph costs 6 MiB of memory where
    it is loaded, and a cache larger than what it holds costs time, so it is these and no more.

    tflite-runtime 2.14 multiplies a chunk of 32 at the speed of one of 128 and gives every graph a
    cache of its own, so there the chunks are short.

    Drafts are checked behind the caches that tokens are decoded behind, or a slot's cache would be
    copied whenever a step has none. That doubles those graphs: it is done where it is asked for.
    """
    decode = [SMALLEST_DECODE_CACHE]
    while decode[-1] < context_length:
        decode.append(2 * decode[-1])
    decode[-1] = context_length
    verify = [Signature(VERIFY_TOKENS, cache, verifies=True) for cache in decode if drafts]
    if release == TFLITE_RUNTIME:
        short = (Signature(SHORT_PREFILL_TOKENS, cache) for cache in (0, context_length))
        return (*(Signature(1, cache) for cache in decode), *short, *verify)
    prefill = (0, min(SMALLEST_PREFILL_CACHE, context_length))
    return (
        *(Signature(1, cache) for cache in decode),
        *(Signature(PREFILL_TOKENS, cache) for cache in prefill),
        Signature(SHORT_PREFILL_TOKENS, context_length),
        *verify,
    )


def answer_signatures(context_length: int) -> tuple[Signature, ...]:
    """Choose the graphs of a decoder that answers to an encoder: its answers begin from nothing.

    Decoding is as in `signatures`; a chunk of 32 reads the beginning of an answer that is given.
    """
    decode = (graph for graph in signatures(context_length) if graph.tokens == 1)
    return (*decode, Signature(SHORT_PREFILL_TOKENS, context_length))

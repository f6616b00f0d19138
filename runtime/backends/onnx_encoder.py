"""The onnxruntime back ends of encoders and of encoder-decoders.

An encoder-decoder is two graphs. What the encoder's gives for a source, keys and values of every
decoder layer, is kept with the slots (read_sources.py) and bound as it is at every step; the
decoder's own cache is written in place, as in onnx.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.onnx import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    cache_bytes,
    open_session,
)
from edgewise.runtime.backends.page_release import lazy_zeros, release_pages
from edgewise.runtime.backends.protocol import BackendError, check_length
from edgewise.runtime.backends.read_sources import ReadSources, Sources
from edgewise.runtime.bundle import Bundle, decoder_cache, source_size

TOKEN_TYPES = "token_type_ids"  # noqa: S105 - a name, no secret
ENCODER_MASK = "encoder_attention_mask"
CROSS_PREFIX = "cross_key_values."
PAST_PREFIX, PRESENT_PREFIX = "past_key_values.", "present."


class OnnxEncoderBackend:
    """Fulfils ``EncoderBackend`` with an onnxruntime session."""

    def __init__(self, graph: Path, *, threads: int, capacity: int) -> None:
        """Load the graph.

        Args:
            graph: The .onnx file, its weights beside it.
            threads: Threads that compute one call.
            capacity: Tokens that a sequence may have.

        Raises:
            BackendError: onnxruntime can not load the graph.
        """
        self.capacity = capacity
        self._session: Any = open_session(graph, threads=threads)
        self._inputs = {item.name for item in self._session.get_inputs()}
        self._outputs = [item.name for item in self._session.get_outputs()]

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        *,
        threads: int,
        capacity: int | None = None,
        graph: Path | None = None,
    ) -> Self:
        """Load a bundle of the family "encoder".

        Args:
            bundle: An opened bundle with ``runtime`` "onnx".
            threads: Threads that compute one call.
            capacity: Tokens that a sequence may have; None: all that the bundle allows.
            graph: An .onnx file in place of the bundle's, of the same inputs and results.

        Raises:
            BackendError: onnxruntime can not load the graph.
        """
        longest = bundle.manifest.context_length
        capacity = longest if capacity is None else min(capacity, longest)
        return cls(graph or bundle.file("graph"), threads=threads, capacity=capacity)

    def encode(
        self,
        token_ids: NDArray[np.int64],
        counts: NDArray[np.int32],
        token_types: NDArray[np.int64] | None = None,
    ) -> Mapping[str, NDArray[np.float32]]:
        """See ``EncoderBackend``."""
        check_length(token_ids.shape[1], self.capacity)
        types = np.zeros_like(token_ids) if token_types is None else token_types
        feeds = {
            INPUT_IDS: token_ids,
            ATTENTION_MASK: mask_of(counts, token_ids.shape[1]),
            TOKEN_TYPES: types,
        }
        given = {name: array for name, array in feeds.items() if name in self._inputs}
        try:
            results = self._session.run(self._outputs, given)
        except Exception as error:  # onnxruntime raises a class of its own for each cause
            raise BackendError(
                f"onnxruntime failed while it encoded {token_ids.shape[1]} tokens: {error}"
            ) from error
        return dict(zip(self._outputs, results, strict=True))

    def sources(self, token_ids: NDArray[np.int64], counts: NDArray[np.int32]) -> Sources:
        """Compute what a decoder attends to; arguments and errors are those of `encode`."""
        results = self.encode(token_ids, counts)
        cross = {name: array for name, array in results.items() if name.startswith(CROSS_PREFIX)}
        return Sources(mask_of(counts, token_ids.shape[1]), cross)

    def close(self) -> None:
        """See ``EncoderBackend``."""
        self._session = None


class OnnxEncoderDecoderBackend:
    """Fulfils ``EncoderDecoderBackend`` with two onnxruntime sessions."""

    rows_share_work = True

    def __init__(self, bundle: Bundle, *, threads: int, slots: int = 1, capacity: int) -> None:
        """Load both graphs and lay out the cache.

        Args:
            bundle: An opened bundle of the family "encoder_decoder" with ``runtime`` "onnx".
            threads: Threads that compute one call.
            slots: Sequences that can be held at once.
            capacity: Tokens that each slot can hold.

        Raises:
            BackendError: onnxruntime can not load a graph.
        """
        manifest = bundle.manifest
        cache_dtype = decoder_cache(manifest).dtype
        self.slots = slots
        self.capacity = capacity
        self.source_capacity = source_size(manifest)
        self.vocabulary_size = manifest.vocabulary_size
        self._encoder = OnnxEncoderBackend(
            bundle.file("encoder"), threads=threads, capacity=self.source_capacity
        )
        self._session: Any = open_session(bundle.file("graph"), threads=threads)
        self._cache = {
            item.name: lazy_zeros((slots, item.shape[1], capacity, item.shape[3]), cache_dtype)
            for item in self._session.get_inputs()
            if item.name.startswith(PAST_PREFIX)
        }
        self._sources = ReadSources(slots)

    def read_source(
        self, first_slot: int, token_ids: NDArray[np.int64], counts: NDArray[np.int32]
    ) -> None:
        """See ``EncoderDecoderBackend``."""
        self._sources.read(first_slot, self._encoder.sources(token_ids, counts))

    def step(
        self,
        first_slot: int,
        token_ids: NDArray[np.int64],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """See ``Backend``."""
        rows, new_tokens = token_ids.shape
        if counts is None:
            counts = np.full(rows, new_tokens, np.int32)
        is_one_call = new_tokens == 1 or not past_lengths.any()
        if rows > 1 and not (is_one_call and self._sources.rows(first_slot, rows) is not None):
            # The graph takes several rows of several tokens in a first pass alone, and sources of
            # one length.
            logits = [
                self._run(
                    first_slot + row,
                    token_ids[row : row + 1, : counts[row]],
                    past_lengths[row : row + 1] + counts[row : row + 1],
                )
                for row in range(rows)
            ]
            return np.concatenate(logits)
        if rows == 1:
            token_ids = token_ids[:, : counts[0]]
        return self._run(first_slot, token_ids, past_lengths + counts)

    def slot_bytes(self, tokens: int) -> int:
        """See ``Backend``; of the decoder's own cache."""
        return sum(cache_bytes(cache, tokens) for cache in self._cache.values())

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See ``EncoderDecoderBackend``."""
        for cache in self._cache.values():
            cache[target, :, :length] = cache[source, :, :length]
        self._sources.copy(source, target)

    def release(self, slot: int) -> None:
        """See ``Backend``."""
        for cache in self._cache.values():
            release_pages(cache[slot])
        self._sources.forget(slot)

    def close(self) -> None:
        """See ``Backend``."""
        self._encoder.close()
        self._sources = ReadSources(self.slots)
        self._cache.clear()
        self._session = None

    def _run(
        self, first_slot: int, token_ids: NDArray[np.int64], totals: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        rows = slice(first_slot, first_slot + len(token_ids))
        source = self._sources.rows(first_slot, len(token_ids))
        if source is None:
            raise ValueError(f"slot {first_slot} has read no source")
        binding = self._session.io_binding()
        feeds = {
            INPUT_IDS: np.ascontiguousarray(token_ids),
            ATTENTION_MASK: mask_of(totals, int(totals.max())),
            ENCODER_MASK: source.mask,
        }
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name, cross in source.cross.items():
            _bind(binding.bind_input, name, cross)
        for name, cache in self._cache.items():
            _bind(binding.bind_input, name, cache[rows])
            _bind(binding.bind_output, name.replace(PAST_PREFIX, PRESENT_PREFIX), cache[rows])
        logits = np.empty((len(token_ids), 1, self.vocabulary_size), np.float32)
        _bind(binding.bind_output, LOGITS, logits)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises a class of its own for each cause
            raise BackendError(
                f"onnxruntime failed while it computed {int(totals.max())} tokens: {error}"
            ) from error
        return logits[:, 0]


def mask_of(counts: NDArray[np.int32], width: int) -> NDArray[np.int64]:
    """Return 1 for real tokens and 0 for the padding behind them: [B, width]."""
    return (np.arange(width) < counts[:, None]).astype(np.int64)


def _bind(bind: Any, name: str, array: NDArray[Any]) -> None:
    """Bind an array's own memory; it must outlive the call."""
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

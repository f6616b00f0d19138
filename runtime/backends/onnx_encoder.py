"""The onnxruntime back ends of encoders and of encoder-decoders.

An encoder-decoder is two graphs. What the encoder's gives for a source, keys and values of every
decoder layer, is kept with the slots and bound as it is at every step; the decoder's own cache is
written in place, as in onnx.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.onnx import ATTENTION_MASK, INPUT_IDS, LOGITS, open_session
from edgewise.runtime.backends.protocol import BackendError, check_length
from edgewise.runtime.bundle import Bundle

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
    def open(cls, bundle: Bundle, *, threads: int, capacity: int | None = None) -> Self:
        """Load a bundle of the family "encoder".

        Args:
            bundle: An opened bundle with ``runtime`` "onnx".
            threads: Threads that compute one call.
            capacity: Tokens that a sequence may have; None: all that the bundle allows.

        Raises:
            BackendError: onnxruntime can not load the graph.
        """
        longest = bundle.manifest.context_length
        capacity = longest if capacity is None else min(capacity, longest)
        return cls(bundle.file("graph"), threads=threads, capacity=capacity)

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

    def close(self) -> None:
        """See ``EncoderBackend``."""
        self._session = None


@dataclass(frozen=True)
class _Source:
    """What the decoder attends to, for neighbouring slots."""

    first_slot: int
    mask: NDArray[np.int64]  # [B, S]
    cross: Mapping[str, NDArray[np.float32]]  # [B, heads, S, size] each

    @property
    def stop_slot(self) -> int:
        """The slot behind the last."""
        return self.first_slot + len(self.mask)

    def part(self, start: int, stop: int) -> _Source:
        """Return the slots from ``start`` up to ``stop`` that are here; there may be none."""
        start = max(start, self.first_slot)
        rows = slice(start - self.first_slot, max(stop, self.first_slot) - self.first_slot)
        cross = {name: array[rows] for name, array in self.cross.items()}
        return _Source(start, self.mask[rows], cross)


class OnnxEncoderDecoderBackend:
    """Fulfils ``EncoderDecoderBackend`` with two onnxruntime sessions."""

    def __init__(
        self,
        encoder: Path,
        decoder: Path,
        *,
        threads: int,
        slots: int = 1,
        capacity: int,
        source_capacity: int,
        vocabulary_size: int,
    ) -> None:
        """Load both graphs and lay out the cache.

        Args:
            encoder: The encoder's .onnx file.
            decoder: The decoder's.
            threads: Threads that compute one call.
            slots: Sequences that can be held at once.
            capacity: Tokens that each slot can hold.
            source_capacity: Tokens that a source may have.
            vocabulary_size: Length of a row of logits.

        Raises:
            BackendError: onnxruntime can not load a graph.
        """
        self.slots = slots
        self.capacity = capacity
        self.source_capacity = source_capacity
        self.vocabulary_size = vocabulary_size
        self._encoder = OnnxEncoderBackend(encoder, threads=threads, capacity=source_capacity)
        self._session: Any = open_session(decoder, threads=threads)
        self._cache = {
            item.name: np.zeros((slots, item.shape[1], capacity, item.shape[3]), np.float32)
            for item in self._session.get_inputs()
            if item.name.startswith(PAST_PREFIX)
        }
        self._sources: list[_Source] = []

    @classmethod
    def open(
        cls, bundle: Bundle, *, threads: int, slots: int = 1, capacity: int | None = None
    ) -> Self:
        """Load a bundle of the family "encoder_decoder".

        Args:
            bundle: An opened bundle with ``runtime`` "onnx".
            threads: Threads that compute one call.
            slots: Sequences that can be held at once.
            capacity: Tokens that each slot can hold; None: all that the bundle allows.

        Raises:
            BackendError: onnxruntime can not load a graph.
        """
        manifest = bundle.manifest
        return cls(
            bundle.file("encoder"),
            bundle.file("graph"),
            threads=threads,
            slots=slots,
            capacity=manifest.context_length if capacity is None else capacity,
            source_capacity=manifest.source_length or manifest.context_length,
            vocabulary_size=manifest.vocabulary_size,
        )

    def read_source(
        self, first_slot: int, token_ids: NDArray[np.int64], counts: NDArray[np.int32]
    ) -> None:
        """See ``EncoderDecoderBackend``."""
        results = self._encoder.encode(token_ids, counts)
        cross = {name: array for name, array in results.items() if name.startswith(CROSS_PREFIX)}
        new = _Source(first_slot, mask_of(counts, token_ids.shape[1]), cross)
        rests = [
            part
            for source in self._sources
            for part in (
                source.part(0, first_slot),
                source.part(first_slot + len(token_ids), self.slots),
            )
            if len(part.mask)
        ]
        self._sources = [*rests, new]

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
        if rows > 1 and not (is_one_call and self._source_of(first_slot, rows)):
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

    def close(self) -> None:
        """See ``Backend``."""
        self._encoder.close()
        self._sources.clear()
        self._cache.clear()
        self._session = None

    def _run(
        self, first_slot: int, token_ids: NDArray[np.int64], totals: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        rows = slice(first_slot, first_slot + len(token_ids))
        found = self._source_of(first_slot, len(token_ids))
        if found is None:
            raise ValueError(f"slot {first_slot} has read no source")
        source = found.part(rows.start, rows.stop)
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

    def _source_of(self, first_slot: int, rows: int) -> _Source | None:
        """Return what neighbouring slots have read together, or None."""
        for source in self._sources:
            if source.first_slot <= first_slot and first_slot + rows <= source.stop_slot:
                return source
        return None


def mask_of(counts: NDArray[np.int32], width: int) -> NDArray[np.int64]:
    """Return 1 for real tokens and 0 for the padding behind them: [B, width]."""
    return (np.arange(width) < counts[:, None]).astype(np.int64)


def _bind(bind: Any, name: str, array: NDArray[np.float32]) -> None:
    """Bind an array's own memory; it must outlive the call."""
    bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

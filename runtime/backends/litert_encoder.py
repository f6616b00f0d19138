"""The LiteRT back ends of encoders and of encoder-decoders.

A file holds graphs "encode_{T}" for several lengths T, and those of the decoder for several numbers
of new tokens and positions of cache, all made for the longest T. Rows are computed one after the
other; each goes through the shortest graph that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.litert_feed import LAST_TOKEN, LOGITS, POSITIONS, TOKEN_IDS
from edgewise.runtime.backends.litert_graphs import Graph, next_graph
from edgewise.runtime.backends.litert_named_graphs import NamedGraphs, open_named_graphs
from edgewise.runtime.backends.page_release import lazy_zeros, release_pages
from edgewise.runtime.backends.protocol import BackendError, check_length
from edgewise.runtime.bundle import Bundle

TOKEN_COUNT = "token_count"  # noqa: S105 - a name, no secret
TOKEN_TYPES = "token_types"  # noqa: S105 - a name, no secret
ENCODER_TOKENS = "encoder_tokens"
CROSS_PREFIX, NEW_PREFIX, CACHE_INFIX = "cross_", "new_", "_cache."

Array = NDArray[Any]


class LitertEncoderBackend:
    """Fulfils ``EncoderBackend`` with LiteRT."""

    def __init__(self, graph: Path, *, threads: int) -> None:
        """Load the graphs.

        Args:
            graph: The .tflite file.
            threads: Threads that compute one call.

        Raises:
            BackendError: LiteRT can not load the file.
        """
        self._model: NamedGraphs | None = open_named_graphs(graph, threads)
        self._lengths = _encoder_lengths(self._model)
        self.capacity = self._lengths[-1]

    @classmethod
    def open(cls, bundle: Bundle, *, threads: int, capacity: int | None = None) -> Self:
        """Load a bundle of the family "encoder".

        Args:
            bundle: An opened bundle with ``runtime`` "tflite".
            threads: Threads that compute one call.
            capacity: Tokens that a sequence may have; None: all that the bundle allows.

        Raises:
            BackendError: LiteRT can not load the file.
        """
        backend = cls(bundle.file("graph"), threads=threads)
        if capacity is not None:
            backend.capacity = min(capacity, backend.capacity)
        return backend

    def encode(
        self,
        token_ids: NDArray[np.int64],
        counts: NDArray[np.int32],
        token_types: NDArray[np.int64] | None = None,
    ) -> Mapping[str, NDArray[np.float32]]:
        """See ``EncoderBackend``."""
        if self._model is None:
            raise ValueError("the back end is closed")
        check_length(int(counts.max()), self.capacity)
        rows = []
        for row, count in enumerate(counts.tolist()):
            length = next(length for length in self._lengths if length >= count)
            types = np.zeros(count) if token_types is None else token_types[row, :count]
            feeds = {
                TOKEN_IDS: _padded(token_ids[row, :count], length),
                TOKEN_COUNT: np.asarray([count], np.int32),
                TOKEN_TYPES: _padded(types, length),
            }
            rows.append(self._model.run(f"encode_{length}", feeds))
        width = token_ids.shape[1]
        names = (name for name in rows[0] if not name.startswith(CROSS_PREFIX))
        return {name: _joined([_of_width(row[name], width) for row in rows]) for name in names}

    def close(self) -> None:
        """See ``EncoderBackend``."""
        if self._model is not None:
            self._model.close()
        self._model = None


class LitertEncoderDecoderBackend:
    """Fulfils ``EncoderDecoderBackend`` with LiteRT."""

    rows_share_work = False

    def __init__(self, bundle: Bundle, *, threads: int, slots: int = 1, capacity: int) -> None:
        """Load the graphs and lay out the cache.

        Args:
            bundle: An opened bundle of the family "encoder_decoder" with ``runtime`` "tflite".
            threads: Threads that compute one call.
            slots: Sequences that can be held at once.
            capacity: Tokens that each slot can hold.

        Raises:
            BackendError: LiteRT can not load the file, or none of its graphs has such a cache.
        """
        graph = bundle.file("graph")
        self.slots = slots
        self._model: NamedGraphs | None = open_named_graphs(graph, threads)
        self._source_graph = f"encode_{_encoder_lengths(self._model)[-1]}"
        self.source_capacity = _encoder_lengths(self._model)[-1]
        self._graphs = [
            _graph_of(name, self._model.inputs(name))
            for name in self._model.names
            if not name.startswith("encode_")
        ]
        largest = max(self._graphs, key=lambda graph: (graph.cache, -graph.tokens))
        if capacity > largest.cache:
            raise BackendError(
                f"{graph.name} holds at most {largest.cache} tokens, {capacity} were asked for; "
                "export it with a larger context"
            )
        self.capacity = capacity
        self._cache = {
            name: lazy_zeros((slots, *shape))
            for name, shape in self._model.inputs(largest.name).items()
            if CACHE_INFIX in name
        }
        self._sources: list[dict[str, Array] | None] = [None] * slots
        self.vocabulary_size = bundle.manifest.vocabulary_size

    def read_source(
        self, first_slot: int, token_ids: NDArray[np.int64], counts: NDArray[np.int32]
    ) -> None:
        """See ``EncoderDecoderBackend``."""
        if self._model is None:
            raise ValueError("the back end is closed")
        check_length(int(counts.max()), self.source_capacity)
        for row, count in enumerate(counts.tolist()):
            feeds = {
                TOKEN_IDS: _padded(token_ids[row, :count], self.source_capacity),
                TOKEN_COUNT: np.asarray([count], np.int32),
            }
            results = self._model.run(self._source_graph, feeds)
            source = {
                name: array for name, array in results.items() if name.startswith(CROSS_PREFIX)
            }
            source[ENCODER_TOKENS] = np.asarray([count], np.int32)
            self._sources[first_slot + row] = source

    def step(
        self,
        first_slot: int,
        token_ids: NDArray[np.int64],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """See ``Backend``."""
        rows, new_tokens = token_ids.shape
        logits = np.empty((rows, self.vocabulary_size), np.float32)
        for row in range(rows):
            past = int(past_lengths[row])
            left = token_ids[row, : new_tokens if counts is None else int(counts[row])]
            while len(left):
                graph = next_graph(self._graphs, past, len(left))
                chunk = left[: graph.tokens]
                logits[row] = self._run(first_slot + row, graph, chunk, past)
                past += len(chunk)
                left = left[len(chunk) :]
        return logits

    def slot_bytes(self, tokens: int) -> int:
        """See ``Backend``; of the decoder's own cache."""
        return sum(
            cache[0, :, :, : min(tokens, self.capacity)].nbytes for cache in self._cache.values()
        )

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See ``EncoderDecoderBackend``."""
        for cache in self._cache.values():
            cache[target, :, :, :length] = cache[source, :, :, :length]
        self._sources[target] = self._sources[source]

    def release(self, slot: int) -> None:
        """See ``Backend``."""
        for cache in self._cache.values():
            release_pages(cache[slot])
        self._sources[slot] = None

    def close(self) -> None:
        """See ``Backend``."""
        self._cache.clear()
        self._sources = [None] * self.slots
        if self._model is not None:
            self._model.close()
        self._model = None

    def _run(self, slot: int, graph: Graph, token_ids: Array, past: int) -> Array:
        source = self._sources[slot]
        if self._model is None or source is None:
            raise ValueError(f"slot {slot} has read no source, or the back end is closed")
        count = len(token_ids)
        feeds = {
            TOKEN_IDS: _padded(token_ids, graph.tokens),
            POSITIONS: np.arange(past, past + graph.tokens, dtype=np.int32),
            LAST_TOKEN: np.asarray([count - 1], np.int32),
            **source,
            **{name: array[slot][:, :, : graph.cache] for name, array in self._cache.items()},
        }
        results = self._model.run(graph.name, feeds)
        for name, array in self._cache.items():
            new = results[NEW_PREFIX + name.replace(CACHE_INFIX, ".")]
            array[slot][:, :, past : past + count] = new[:, :, :count]
        row: Array = results[LOGITS][0]
        return row


def _encoder_lengths(model: NamedGraphs) -> list[int]:
    return sorted(int(name[7:]) for name in model.names if re.fullmatch(r"encode_\d+", name))


def _graph_of(name: str, inputs: Mapping[str, tuple[int, ...]]) -> Graph:
    caches = [shape[2] for key, shape in inputs.items() if CACHE_INFIX in key]
    return Graph(name, int(inputs[TOKEN_IDS][0]), int(caches[0]) if caches else 0)


def _joined(rows: list[Array]) -> Array:
    """Return rows as a batch; one alone, which may be large, is not copied."""
    return rows[0][None] if len(rows) == 1 else np.stack(rows)


def _padded(values: Array, length: int) -> Array:
    """Pad by zeros behind, as int32."""
    result = np.zeros(length, np.int32)
    result[: len(values)] = values
    return result


def _of_width(array: Array, width: int) -> Array:
    """Give [T, N] the batch's width; a single row stays one."""
    if len(array) in {1, width}:
        return array
    return np.pad(array, ((0, max(width - len(array), 0)), (0, 0)))[:width]

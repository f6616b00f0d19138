"""Encoders and encoder-decoders without a model, for tests: exact to predict, quick to make.

As in fake.py, every number is a hash of all that it depends on: of an encoder's whole text (and,
where a result is a token's, the token's place), of an encoder-decoder's source and answer so far.
Padding is left out, so that whoever lets it in gets other numbers than the tests.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.fake import FakeBackend, FakeGraph, hashed, read_graph
from edgewise.runtime.bundle import Bundle, source_size


@dataclass(frozen=True)
class FakeEncoderGraph:
    """What stands in the graph file of a fake encoder."""

    outputs: tuple[str, ...]  # "hidden_states", "mean", "logits"
    features: int  # of "hidden_states" and "mean"
    logits: int  # numbers in a row of "logits"
    every_token: bool  # whether each token has a row of "logits", or the text as a whole
    seed: int = 0
    step_seconds: float = 0.0  # how long each call sleeps


class FakeEncoderBackend:
    """Fulfils `EncoderBackend` with hashes of the text."""

    def __init__(self, graph: FakeEncoderGraph, *, capacity: int) -> None:
        """Take the description of the graph; a sequence may have ``capacity`` tokens."""
        self.capacity = capacity
        self._graph = graph
        self.batches: list[int] = []  # rows of each call, for tests
        self.closed = False

    @classmethod
    def open(cls, bundle: Bundle, *, threads: int = 1, capacity: int) -> FakeEncoderBackend:
        """Load the graph file of a fake bundle; it computes in the calling thread alone.

        Raises:
            BackendError: It is not the JSON of a `FakeEncoderGraph`.
        """
        del threads
        return cls(read_graph(FakeEncoderGraph, bundle), capacity=capacity)

    def encode(
        self,
        token_ids: NDArray[np.int64],
        counts: NDArray[np.int32],
        token_types: NDArray[np.int64] | None = None,
    ) -> Mapping[str, NDArray[np.float32]]:
        """See `EncoderBackend`."""
        if self.closed:
            raise ValueError("the backend is closed")
        if counts.min() < 1 or counts.max() > min(self.capacity, token_ids.shape[1]):
            raise ValueError(f"counts are {counts.tolist()} for {token_ids.shape[1]} positions")
        if self._graph.step_seconds:
            time.sleep(self._graph.step_seconds)
        self.batches.append(len(token_ids))
        types = np.zeros_like(token_ids) if token_types is None else token_types
        texts = [
            [int(token) * 2 + int(kind) for token, kind in zip(ids[:count], kinds, strict=False)]
            for ids, kinds, count in zip(token_ids, types, counts, strict=True)
        ]
        return {
            name: np.stack([self._rows(name, text, token_ids.shape[1]) for text in texts])
            for name in self._graph.outputs
        }

    def close(self) -> None:
        """See `EncoderBackend`."""
        self.closed = True

    def _rows(self, name: str, text: Sequence[int], width: int) -> NDArray[np.float32]:
        graph = self._graph
        size = graph.logits if name == "logits" else graph.features
        if name == "mean":
            states = [self.of_token(text, place, size) for place in range(len(text))]
            mean: NDArray[np.float32] = np.stack(states).mean(axis=0, keepdims=True)
            return mean
        if name == "logits" and not graph.every_token:
            return hashed(text, size, seed=graph.seed)[None]
        rows = np.full((width, size), np.nan, np.float32)
        for place in range(len(text)):
            rows[place] = self.of_token(text, place, size)
        return rows

    def of_token(self, text: Sequence[int], place: int, size: int) -> NDArray[np.float32]:
        """Return the numbers of a token, which its whole text and its place decide.

        Args:
            text: Twice each id, plus 1 where it belongs to a second text.
            place: The token's.
            size: How many numbers.
        """
        return hashed([*text, -place], size, seed=self._graph.seed)


class FakeEncoderDecoderBackend(FakeBackend):
    """Fulfils `EncoderDecoderBackend` with a hash of source and answer."""

    def __init__(
        self,
        *,
        vocabulary_size: int,
        source_capacity: int,
        slots: int = 1,
        capacity: int = 256,
        graph: FakeGraph | None = None,
    ) -> None:
        """Lay out the slots as `FakeBackend` does; a source may have ``source_capacity`` tokens."""
        super().__init__(
            vocabulary_size=vocabulary_size, slots=slots, capacity=capacity, graph=graph
        )
        self.source_capacity = source_capacity
        self._sources: list[list[int]] = [[] for _ in range(slots)]

    @classmethod
    def open(
        cls, bundle: Bundle, *, threads: int = 1, slots: int = 1, capacity: int
    ) -> FakeEncoderDecoderBackend:
        """Load the graph file of a fake bundle; it computes in the calling thread alone.

        Raises:
            BackendError: It is not the JSON of a `FakeGraph`.
        """
        del threads
        manifest = bundle.manifest
        return cls(
            vocabulary_size=manifest.vocabulary_size,
            source_capacity=source_size(manifest),
            slots=slots,
            capacity=capacity,
            graph=read_graph(FakeGraph, bundle),
        )

    def read_source(
        self, first_slot: int, token_ids: NDArray[np.int64], counts: NDArray[np.int32]
    ) -> None:
        """See `EncoderDecoderBackend`."""
        if not 1 <= counts.min() <= counts.max() <= self.source_capacity:
            raise ValueError(f"sources of {counts.tolist()} tokens, {self.source_capacity} fit")
        for row, count in enumerate(counts):
            self._sources[first_slot + row] = [int(token) for token in token_ids[row, :count]]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Backend`; what the slot has read goes with it."""
        super().copy_prefix(source, target, length)
        self._sources[target] = self._sources[source]

    def release(self, slot: int) -> None:
        """See `Backend`."""
        super().release(slot)
        self._sources[slot] = []

    def _source_of(self, slot: int) -> Sequence[int]:
        if not self._sources[slot]:
            raise ValueError(f"slot {slot} has read no source")
        return self._sources[slot]

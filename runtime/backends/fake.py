"""A backend without a model, for tests: the same interface, exact to predict, quick to make.

Workflow: each slot keeps what was written to it, as a real cache does. The logits after a token are
a hash of the slot's whole history, so a token lost, doubled or leaked from another request changes
every later answer. A bundle with ``runtime: "fake"`` loads it; backends/fake_bundle.py writes one.

Rules: everything a real engine leaves undefined is an error here (a past that was never written, a
row beyond the slots), and padding is really written behind the real tokens, as an engine does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgewise.common.strict_json import decode_object
from edgewise.runtime.backends.protocol import BackendError
from edgewise.runtime.bundle import Bundle, logits_size
from edgewise.runtime.dataclass_json import read_dataclass

Graph = TypeVar("Graph")

_GRAPH_MAX_BYTES = 1 << 20
_GRAPH_MAX_DEPTH = 4  # open brackets
_MASK = (1 << 64) - 1
_LOGIT_RANGE = 8.0  # hashed logits are spread evenly over -8..8
_FAVOURITE_LOGIT = 100.0  # so far above that no temperature in use samples another token


@dataclass(frozen=True)
class FakeGraph:
    """What stands in the graph file of a fake bundle."""

    seed: int = 0
    reply: tuple[int, ...] = ()  # token ids that follow `reply_after`, in order
    reply_after: int | None = None  # the id after whose last occurrence the reply begins
    step_seconds: float = 0.0  # how long each step sleeps


class FakeBackend:
    """Fulfils `Backend` with a hash of the history."""

    def __init__(
        self,
        *,
        vocabulary_size: int,
        tokens: int | None = None,
        slots: int = 1,
        capacity: int = 256,
        graph: FakeGraph | None = None,
    ) -> None:
        """Lay out the slots.

        Args:
            vocabulary_size: Length of a row of logits.
            tokens: Ids that it knows; None: as many as logits, which a scoring head has fewer of.
            slots: Sequences held at once.
            capacity: Tokens a slot can hold.
            graph: How to answer; by default from the hash alone.
        """
        self.vocabulary_size = vocabulary_size
        self._tokens = vocabulary_size if tokens is None else tokens
        self.slots = slots
        self.capacity = capacity
        self._graph = FakeGraph() if graph is None else graph
        self._histories: list[list[int]] = [[] for _ in range(slots)]
        self.steps = 0  # calls of `step`, for tests
        self.closed = False

    @classmethod
    def open(
        cls, bundle: Bundle, *, threads: int = 1, slots: int = 1, capacity: int
    ) -> FakeBackend:
        """Load the graph file of a fake bundle; it computes in the calling thread alone.

        Raises:
            BackendError: It is not the JSON of a `FakeGraph`.
        """
        del threads
        graph = read_graph(FakeGraph, bundle)
        manifest = bundle.manifest
        return cls(
            vocabulary_size=logits_size(manifest),
            tokens=manifest.vocabulary_size,
            slots=slots,
            capacity=capacity,
            graph=graph,
        )

    def step(
        self,
        first_slot: int,
        token_ids: NDArray[np.int64],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """See `Backend`."""
        if self.closed:
            raise ValueError("the backend is closed")
        rows, width = token_ids.shape
        if rows < 1 or not 0 <= first_slot <= self.slots - rows:
            raise ValueError(f"{rows} rows from slot {first_slot} of {self.slots}")
        if past_lengths.shape != (rows,) or (counts is not None and counts.shape != (rows,)):
            raise ValueError("past_lengths and counts need one entry a row")
        if self._graph.step_seconds:
            time.sleep(self._graph.step_seconds)
        self.steps += 1
        return np.stack(
            [
                self._append(
                    first_slot + row,
                    [int(token) for token in token_ids[row]],
                    int(past_lengths[row]),
                    width if counts is None else int(counts[row]),
                )
                for row in range(rows)
            ]
        )

    verifies = True

    def verify(
        self, slot: int, token_ids: NDArray[np.int64], past_length: int
    ) -> NDArray[np.float32]:
        """See `VerifyingBackend`."""
        self.steps += 1
        return np.stack(
            [
                self._append(slot, [int(token)], past_length + place, 1)
                for place, token in enumerate(token_ids)
            ]
        )

    rows_share_work = True

    def slot_bytes(self, tokens: int) -> int:
        """See `Backend`; here a token takes one byte."""
        return tokens

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Backend`."""
        if length > len(self._histories[source]):
            raise ValueError(f"slot {source} has {len(self._histories[source])} tokens")
        self._histories[target] = self._histories[source][:length]

    def read_cache(self, slot: int, length: int) -> NDArray[np.float32]:
        """See `Backend`; here a token's key and value are the token."""
        if length > len(self._histories[slot]):
            raise ValueError(f"slot {slot} has {len(self._histories[slot])} tokens")
        tokens = np.array(self._histories[slot][:length], np.float32)
        return np.tile(tokens[:, None], (2, 1, 1, 1))

    def write_cache(self, slot: int, cache: NDArray[np.float32]) -> None:
        """See `Backend`."""
        self._histories[slot] = [int(token) for token in cache[0].reshape(-1)]

    def release(self, slot: int) -> None:
        """See `Backend`."""
        self._histories[slot] = []

    def close(self) -> None:
        """See `Backend`."""
        self.closed = True

    def _append(
        self, slot: int, token_ids: list[int], past: int, count: int
    ) -> NDArray[np.float32]:
        history = self._histories[slot]
        if not 0 <= past <= len(history):
            raise ValueError(f"slot {slot} has a past of {len(history)} tokens, not {past}")
        if not 1 <= count <= len(token_ids):
            raise ValueError(f"{count} of {len(token_ids)} tokens are said to be real")
        if past + count > self.capacity:
            raise ValueError(f"{past} + {count} tokens in a slot of {self.capacity}")
        if not all(0 <= token < self._tokens for token in token_ids[:count]):
            raise ValueError(f"a token of {token_ids} is outside the vocabulary")
        history[past:] = token_ids
        return self.logits_after([*self._source_of(slot), *history[: past + count]])

    def _source_of(self, slot: int) -> Sequence[int]:
        """Return what the slot has read before its own tokens; see FakeEncoderDecoderBackend."""
        del slot
        return ()

    def logits_after(self, history: list[int]) -> NDArray[np.float32]:
        """Return the logits [vocabulary] that follow a whole history of token ids."""
        logits = hashed(history, self.vocabulary_size, seed=self._graph.seed)
        favourite = self._favourite(history)
        if favourite is not None:
            logits[favourite] = _FAVOURITE_LOGIT
        return logits

    def _favourite(self, history: list[int]) -> int | None:
        after = self._graph.reply_after
        if after is None or after not in history:
            return None
        position = history[::-1].index(after)  # tokens since its last occurrence
        return self._graph.reply[position] if position < len(self._graph.reply) else None


def read_graph(kind: type[Graph], bundle: Bundle) -> Graph:
    """Read the graph file of a fake bundle.

    Raises:
        BackendError: It is not the JSON of that dataclass.
    """
    problems: list[str] = []
    try:
        content = bundle.file("graph").read_bytes()
        value = decode_object(content, max_bytes=_GRAPH_MAX_BYTES, max_depth=_GRAPH_MAX_DEPTH)
        graph = read_dataclass(kind, value, "graph", problems)
    except (OSError, ValueError) as error:
        raise BackendError(f"the fake graph of {bundle.path} is not usable: {error}") from error
    if graph is None:
        raise BackendError(f"the fake graph of {bundle.path} is wrong: {'; '.join(problems)}")
    return graph


def hashed(history: Sequence[int], count: int, *, seed: int) -> NDArray[np.float32]:
    """Return ``count`` numbers, spread evenly over -8..8, that a whole history decides."""
    state = seed & _MASK
    for token in history:
        state = _mix((state * 0x9E3779B97F4A7C15 + token + 1) & _MASK)
    mixed = _mix_array(np.arange(count, dtype=np.uint64) + np.uint64(state))
    unit = (mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    result: NDArray[np.float32] = (unit * 2 - 1) * np.float32(_LOGIT_RANGE)
    return result


def _mix(value: int) -> int:
    """Finish one step of splitmix64 (Steele, Lea and Flood 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _mix_array(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Do as `_mix` for every element; unsigned overflow wraps."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

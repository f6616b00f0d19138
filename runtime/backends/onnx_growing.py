"""The onnxruntime back end of decoders whose graph appends to its cache by copying it.

Such graphs come from tracers (Optimum): they take keys and values of all tokens so far and give
them back with the new tokens' behind. Workflow: each slot keeps what its last step gave, and gives
it to the next one as it is; only a slot that was trimmed is cut first.

Rules: what a step gave is never written to, so slots share it freely and copying a prefix costs
nothing; each row is a call of its own, because rows of different lengths do not make one array. A
step holds the cache of its slot twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.onnx import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    open_session,
    ort_value,
)
from edgewise.runtime.backends.protocol import BackendError
from edgewise.runtime.bundle import Bundle, decoder_cache, logits_size

POSITION_IDS = "position_ids"
_POSITION_AXIS = 2


class OnnxGrowingBackend:
    """Fulfils ``Backend`` with an onnxruntime session."""

    rows_share_work = False

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        slots: int = 1,
        capacity: int,
        graph: Path | None = None,
    ) -> None:
        """Load the graph; the cache is empty.

        Args:
            bundle: An opened bundle with ``runtime`` "onnx" whose cache is "concatenated".
            threads: Threads that compute one step.
            slots: Sequences that can be held at once.
            capacity: Tokens that each slot can hold.
            graph: An .onnx file in place of the bundle's, of the same inputs and results.

        Raises:
            BackendError: onnxruntime can not load the graph.
        """
        layout = decoder_cache(bundle.manifest)
        self.slots = slots
        self.capacity = capacity
        self.vocabulary_size = logits_size(bundle.manifest)
        self._session: Any = open_session(graph or bundle.file("graph"), threads=threads)
        self._takes = {item.name for item in self._session.get_inputs()}
        self._past_names, self._present_names = layout.past_names, layout.present_names
        shape = (1, layout.key_value_heads, 0, layout.head_size)
        self._token_bytes = len(self._past_names) * 4 * layout.key_value_heads * layout.head_size
        self._empty = [ort_value(np.zeros(shape, np.float32))] * len(self._past_names)
        self._kept: list[list[Any]] = [self._empty] * slots

    def step(
        self,
        first_slot: int,
        token_ids: NDArray[np.int64],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """See ``Backend``."""
        rows, new_tokens = token_ids.shape
        ends = [new_tokens] * rows if counts is None else counts.tolist()
        return np.stack(
            [
                self._append(first_slot + row, token_ids[row : row + 1, : ends[row]], past)
                for row, past in enumerate(past_lengths.tolist())
            ]
        )

    def slot_bytes(self, tokens: int) -> int:
        """See ``Backend``."""
        return min(tokens, self.capacity) * self._token_bytes

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See ``Backend``."""
        self._kept[target] = self._first(source, length)

    def read_cache(self, slot: int, length: int) -> NDArray[np.float32]:
        """See ``Backend``."""
        return np.concatenate([value.numpy() for value in self._first(slot, length)])

    def write_cache(self, slot: int, cache: NDArray[np.float32]) -> None:
        """See ``Backend``."""
        self._kept[slot] = [ort_value(np.ascontiguousarray(given[None])) for given in cache]

    def release(self, slot: int) -> None:
        """See ``Backend``."""
        self._kept[slot] = self._empty

    def close(self) -> None:
        """See ``Backend``."""
        self._kept = [self._empty] * self.slots
        self._session = None

    def _append(
        self, slot: int, token_ids: NDArray[np.int64], past_length: int
    ) -> NDArray[np.float32]:
        """Compute the logits behind some tokens, [vocabulary_size], and keep their cache."""
        total = past_length + token_ids.shape[1]
        feeds: dict[str, NDArray[Any]] = {
            INPUT_IDS: np.ascontiguousarray(token_ids),
            ATTENTION_MASK: np.ones((1, total), np.int64),
            POSITION_IDS: np.arange(past_length, total, dtype=np.int64)[None],
        }
        feeds |= self._further_feeds(slot)
        binding = self._session.io_binding()
        for name in self._takes & set(feeds):
            binding.bind_cpu_input(name, feeds[name])
        for name, value in zip(self._past_names, self._first(slot, past_length), strict=True):
            binding.bind_ortvalue_input(name, value)
        for name in (LOGITS, *self._present_names):
            binding.bind_output(name, "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises a class of its own for each cause
            raise BackendError(
                f"onnxruntime failed while it computed {total} tokens: {error}"
            ) from error
        logits, *self._kept[slot] = binding.get_outputs()
        last: NDArray[np.float32] = logits.numpy()[0, -1]
        return last

    def _further_feeds(self, slot: int) -> dict[str, NDArray[Any]]:
        """Return what the graph takes besides, by name."""
        del slot
        return {}

    def _first(self, slot: int, length: int) -> list[Any]:
        """Return the keys and values of a slot's first tokens."""
        kept = self._kept[slot]
        held = kept[0].shape()[_POSITION_AXIS]
        if length > held:
            raise ValueError(f"slot {slot} holds {held} tokens, not {length}")
        if length == held:
            return kept
        return [ort_value(value.numpy()[:, :, :length].copy()) for value in kept]

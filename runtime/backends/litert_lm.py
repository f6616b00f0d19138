"""Computes with the graphs that are made for LiteRT-LM: enough to hold them against a reference.

Every token is a call of "decode", whose caches are copied in and out. LiteRT-LM binds them in
place; who wants speed runs it, or exports to TFLite. One slot.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.litert_interpreter import interpreter_library
from edgewise.runtime.backends.litert_library import make_importable
from edgewise.runtime.backends.litert_notes import without_notes
from edgewise.runtime.backends.protocol import BackendError
from edgewise.runtime.manifest import Manifest

MASKED = np.float32(-1e9)
DECODE, LOGITS, MASK = "decode", "logits", "mask"


class LitertLmBackend:
    """Fulfils ``Backend`` with a model's "decode" graph."""

    rows_share_work = False

    def __init__(self, model: Path, manifest: Manifest, *, threads: int, capacity: int) -> None:
        """Load a model.

        Args:
            model: The .tflite file.
            manifest: Of its bundle.
            threads: Threads that compute.
            capacity: Tokens that the slot can hold, at most the graph's.
        """
        make_importable()
        self.slots = 1
        self.capacity = capacity
        self.vocabulary_size = manifest.vocabulary_size
        with without_notes():
            interpreter = interpreter_library().Interpreter(str(model), num_threads=threads)
            self._decode = interpreter.get_signature_runner(DECODE)
        self._state = {
            name: np.zeros(details["shape"], details["dtype"])
            for name, details in self._decode.get_input_details().items()
        }

    def step(
        self,
        first_slot: int,
        token_ids: NDArray[np.int64],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """See ``Backend``."""
        del first_slot
        state = self._state
        tokens, positions, mask = (state[name] for name in ("tokens", "input_pos", MASK))
        past = int(past_lengths[0])
        count = token_ids.shape[1] if counts is None else int(counts[0])
        logits = np.empty((1, 0), np.float32)
        for position, token in enumerate(token_ids[0, :count], past):
            tokens[0, 0], positions[0] = token, position
            mask[..., : position + 1], mask[..., position + 1 :] = 0, MASKED
            with without_notes():
                results = self._decode(**state)
            logits = results.pop(LOGITS).reshape(1, -1)
            state.update(results)
        return logits

    def slot_bytes(self, tokens: int) -> int:
        """See ``Backend``: the caches are laid out whole."""
        del tokens
        return sum(array.nbytes for array in self._state.values())

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See ``Backend``; the only slot can be copied to itself alone."""
        if source != target:
            raise ValueError(f"there is one slot, not {max(source, target) + 1}; {length} tokens")

    def read_cache(self, slot: int, length: int) -> NDArray[np.float32]:
        """See ``Backend``; what a graph updates by itself is not taken out of it."""
        raise BackendError(f"a .litertlm gives no cache away: {length} tokens of slot {slot}")

    def write_cache(self, slot: int, cache: NDArray[np.float32]) -> None:
        """See ``Backend``."""
        raise BackendError(f"a .litertlm takes no cache: {cache.shape[2]} tokens for slot {slot}")

    def release(self, slot: int) -> None:
        """See ``Backend``."""
        del slot
        for array in self._state.values():
            array[...] = 0

    def close(self) -> None:
        """Give the memory back."""
        self._state.clear()
        self._decode = None

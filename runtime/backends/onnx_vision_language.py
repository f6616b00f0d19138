"""The onnxruntime back end of vision-language models: three graphs over one file of weights.

The decoder takes vectors in place of ids; another graph gives the vectors of ids, and the vision
graph those of an image. It is loaded with the first image: a prompt of text alone needs no memory
for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.onnx import INPUT_IDS, OnnxBackend, open_session
from edgewise.runtime.backends.protocol import BackendError
from edgewise.runtime.bundle import Bundle

INPUTS_EMBEDS = "inputs_embeds"
PIXEL_VALUES = "pixel_values"


class OnnxVisionLanguageBackend(OnnxBackend):
    """Fulfils ``VisionLanguageBackend`` with onnxruntime sessions."""

    _new_tokens_name = INPUTS_EMBEDS

    def __init__(self, bundle: Bundle, *, threads: int, slots: int = 1, capacity: int) -> None:
        """Load the graphs of text and lay out the cache.

        Args:
            bundle: An opened bundle of the family "vision_language" with ``runtime`` "onnx".
            threads: Threads that compute one call.
            slots: Sequences that can be held at once.
            capacity: Tokens that each slot can hold.

        Raises:
            BackendError: onnxruntime can not load a graph.
        """
        super().__init__(bundle, threads=threads, slots=slots, capacity=capacity)
        self._bundle, self._threads = bundle, threads
        self._embedding: Any = self._open("token_embedding")
        self._vision: Any = None

    def step(
        self,
        first_slot: int,
        token_ids: NDArray[np.int64],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """See ``Backend``."""
        return self._append(first_slot, self.embed(token_ids), past_lengths, counts)

    def step_vectors(
        self,
        first_slot: int,
        vectors: NDArray[np.float32],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """See ``VisionLanguageBackend``."""
        return self._append(first_slot, vectors, past_lengths, counts)

    def embed(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """See ``VisionLanguageBackend``."""
        return _run(self._embedding, INPUT_IDS, np.ascontiguousarray(token_ids))

    def see(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``VisionLanguageBackend``."""
        if self._vision is None:
            self._vision = self._open("vision")
        return _run(self._vision, PIXEL_VALUES, pixels)

    def close(self) -> None:
        """See ``Backend``."""
        super().close()
        self._embedding = self._vision = None

    def _open(self, role: str) -> Any:
        providers = self._bundle.manifest.execution_providers
        return open_session(self._bundle.file(role), threads=self._threads, providers=providers)


def _run(session: Any, name: str, array: NDArray[Any]) -> NDArray[np.float32]:
    """Run a graph of one input and one result."""
    try:
        result: NDArray[np.float32] = session.run(None, {name: array})[0]
    except Exception as error:  # onnxruntime raises a class of its own for each cause
        raise BackendError(
            f"onnxruntime failed on {name} of the shape {list(array.shape)}: {error}"
        ) from error
    return result

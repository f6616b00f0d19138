"""The LiteRT back end of vision-language models: a file each for decoder, vectors of ids, images.

The decoder's graphs take vectors in place of ids; ``embed_{T}`` give the vectors of T ids, and
``see`` those of an image. The last is loaded with the first image: a prompt of text alone needs no
memory for it.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.litert import LitertBackend
from edgewise.runtime.backends.litert_feed import TOKEN_IDS
from edgewise.runtime.backends.litert_named_graphs import NamedGraphs, open_named_graphs
from edgewise.runtime.bundle import Bundle

PIXEL_VALUES = "pixel_values"
SEE = "see"


class LitertVisionLanguageBackend(LitertBackend):
    """Fulfils ``VisionLanguageBackend`` with LiteRT."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        slots: int = 1,
        capacity: int,
        keep_packed: bool = True,
    ) -> None:
        """Load the graphs of text and lay out the cache.

        Args:
            bundle: An opened bundle of the family "vision_language" with ``runtime`` "tflite".
            threads: Threads that compute one call.
            slots: Sequences that can be held at once.
            capacity: Tokens that each slot can hold.
            keep_packed: Keep packed weights in files for later loads.

        Raises:
            BackendError: LiteRT can not load the files.
        """
        super().__init__(
            bundle, threads=threads, slots=slots, capacity=capacity, keep_packed=keep_packed
        )
        self._bundle, self._threads = bundle, threads
        self._keep_packed = keep_packed
        self._embedding: NamedGraphs | None = self._open("token_embedding")
        self._lookups = sorted(
            int(name[6:]) for name in self._embedding.names if re.fullmatch(r"embed_\d+", name)
        )
        self._vision: NamedGraphs | None = None

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
        if self._embedding is None:
            raise ValueError("the back end is closed")
        left, parts = token_ids.ravel().astype(np.int32), []
        while len(left):
            tokens = next((size for size in self._lookups if size >= len(left)), self._lookups[-1])
            ids = np.zeros(tokens, np.int32)
            count = min(tokens, len(left))
            ids[:count] = left[:count]
            results = self._embedding.run(f"embed_{tokens}", {TOKEN_IDS: ids})
            parts.append(next(iter(results.values()))[:count])
            left = left[count:]
        vectors: NDArray[np.float32] = np.concatenate(parts)
        return vectors.reshape(*token_ids.shape, -1)

    def see(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``VisionLanguageBackend``."""
        if self._embedding is None:
            raise ValueError("the back end is closed")
        if self._vision is None:
            self._vision = self._open("vision")
        rows = [self._vision.run(SEE, {PIXEL_VALUES: image}) for image in pixels]
        return np.stack([next(iter(row.values())) for row in rows])

    def close(self) -> None:
        """See ``Backend``."""
        super().close()
        for graphs in (self._embedding, self._vision):
            if graphs is not None:
                graphs.close()
        self._embedding = self._vision = None

    def _open(self, role: str) -> NamedGraphs:
        path = self._bundle.file(role)
        return open_named_graphs(path, self._threads, keep_packed=self._keep_packed)

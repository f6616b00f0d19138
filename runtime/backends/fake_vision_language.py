"""A vision-language backend without a model, for tests: exact to predict, quick to make.

The vector of a token is its id alone. An image becomes as many ids as it has tokens, a hash of its
pixels; so answers depend on images and their places as those of fake.py do on tokens.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.fake import FakeBackend, FakeGraph, read_graph
from edgewise.runtime.bundle import Bundle


class FakeVisionLanguageBackend(FakeBackend):
    """Fulfils `VisionLanguageBackend` with a hash of the history."""

    def __init__(
        self,
        *,
        vocabulary_size: int,
        image_tokens: int,
        slots: int = 1,
        capacity: int = 256,
        graph: FakeGraph | None = None,
    ) -> None:
        """Lay out the slots as `FakeBackend` does; an image has ``image_tokens``."""
        super().__init__(
            vocabulary_size=vocabulary_size, slots=slots, capacity=capacity, graph=graph
        )
        self._image_tokens = image_tokens
        self.seen = 0  # images that were computed, for tests

    @classmethod
    def open(
        cls, bundle: Bundle, *, threads: int = 1, slots: int = 1, capacity: int
    ) -> FakeVisionLanguageBackend:
        """Load the graph file of a fake bundle; it computes in the calling thread alone.

        Raises:
            BackendError: It is not the JSON of a `FakeGraph`.
        """
        del threads
        manifest = bundle.manifest
        return cls(
            vocabulary_size=manifest.vocabulary_size,
            image_tokens=1 if manifest.image is None else manifest.image.tokens,
            slots=slots,
            capacity=capacity,
            graph=read_graph(FakeGraph, bundle),
        )

    def see(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `VisionLanguageBackend`."""
        self.seen += len(pixels)
        return self.embed(np.asarray([self.ids_of(image) for image in pixels]))

    def embed(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `VisionLanguageBackend`."""
        return token_ids[..., None].astype(np.float32)

    def step_vectors(
        self,
        first_slot: int,
        vectors: NDArray[np.float32],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """See `VisionLanguageBackend`."""
        return self.step(first_slot, vectors[..., 0].astype(np.int64), past_lengths, counts)

    def ids_of(self, image: NDArray[np.float32]) -> list[int]:
        """Return the ids that stand for an image."""
        hashes = (zlib.crc32(image.tobytes(), place) for place in range(self._image_tokens))
        return [number % self.vocabulary_size for number in hashes]

"""The onnxruntime back end of encoder-decoders whose decoder appends to its cache by copying it.

Such pairs of graphs come from tracers (Optimum). The encoder's gives keys and values for every
decoder layer, once a source; the decoder's takes them at every step, and its own cache as
onnx_growing.py says. Rule: it was traced for one new token, and so gets one at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.onnx_encoder import (
    CROSS_PREFIX,
    ENCODER_MASK,
    OnnxEncoderBackend,
    mask_of,
)
from edgewise.runtime.backends.onnx_growing import OnnxGrowingBackend
from edgewise.runtime.backends.read_sources import ReadSources, Sources
from edgewise.runtime.bundle import Bundle, CacheLayout, decoder_cache


class OnnxGrowingPairBackend(OnnxGrowingBackend):
    """Fulfils ``EncoderDecoderBackend`` with two onnxruntime sessions."""

    def __init__(
        self,
        encoder: Path,
        decoder: Path,
        layout: CacheLayout,
        *,
        threads: int,
        slots: int = 1,
        capacity: int,
        source_capacity: int,
        vocabulary_size: int,
    ) -> None:
        """Load both graphs; the cache is empty.

        Args:
            encoder: The encoder's .onnx file, its weights beside it.
            decoder: The decoder's.
            layout: Of the decoder's own cache.
            threads: Threads that compute one step.
            slots: Sequences that can be held at once.
            capacity: Tokens that each slot can hold.
            source_capacity: Tokens that a source may have.
            vocabulary_size: Length of a row of logits.

        Raises:
            BackendError: onnxruntime can not load a graph.
        """
        super().__init__(
            decoder,
            layout,
            threads=threads,
            slots=slots,
            capacity=capacity,
            vocabulary_size=vocabulary_size,
        )
        self.source_capacity = source_capacity
        self._encoder = OnnxEncoderBackend(encoder, threads=threads, capacity=source_capacity)
        self._sources = ReadSources(slots)

    @classmethod
    def open(
        cls, bundle: Bundle, *, threads: int, slots: int = 1, capacity: int | None = None
    ) -> Self:
        """Load a bundle of the family "encoder_decoder" whose cache is "concatenated".

        Args:
            bundle: An opened bundle with ``runtime`` "onnx".
            threads: Threads that compute one step.
            slots: Sequences that can be held at once.
            capacity: Tokens that each slot can hold; None: all that the bundle allows.

        Raises:
            BackendError: onnxruntime can not load a graph.
        """
        manifest = bundle.manifest
        return cls(
            bundle.file("encoder"),
            bundle.file("graph"),
            decoder_cache(manifest),
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
        self._sources.read(first_slot, Sources(mask_of(counts, token_ids.shape[1]), cross))

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See ``EncoderDecoderBackend``."""
        super().copy_prefix(source, target, length)
        self._sources.copy(source, target)

    def release(self, slot: int) -> None:
        """See ``Backend``."""
        super().release(slot)
        self._sources.forget(slot)

    def close(self) -> None:
        """See ``Backend``."""
        super().close()
        self._encoder.close()
        self._sources = ReadSources(self.slots)

    def _append(
        self, slot: int, token_ids: NDArray[np.int64], past_length: int
    ) -> NDArray[np.float32]:
        logits = np.empty(0, np.float32)
        for index in range(token_ids.shape[1]):
            token = token_ids[:, index : index + 1]
            logits = super()._append(slot, token, past_length + index)
        return logits

    def _further_feeds(self, slot: int) -> dict[str, NDArray[Any]]:
        source = self._sources.rows(slot, 1)
        if source is None:
            raise ValueError(f"slot {slot} has read no source")
        return {ENCODER_MASK: source.mask, **source.cross}

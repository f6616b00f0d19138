"""The onnxruntime back end of encoder-decoders whose decoder appends to its cache by copying it.

Such pairs of graphs come from tracers (Optimum). The encoder's gives keys and values for every
decoder layer, once a source; the decoder's takes them at every step, and its own cache as
onnx_growing.py says. Rule: it was traced for one new token, and so gets one at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.onnx_encoder import ENCODER_MASK, OnnxEncoderBackend
from edgewise.runtime.backends.onnx_growing import OnnxGrowingBackend
from edgewise.runtime.backends.read_sources import ReadSources
from edgewise.runtime.bundle import Bundle, source_size


class OnnxGrowingPairBackend(OnnxGrowingBackend):
    """Fulfils ``EncoderDecoderBackend`` with two onnxruntime sessions."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        slots: int = 1,
        capacity: int,
        graph: Path | None = None,
        encoder: Path | None = None,
    ) -> None:
        """Load both graphs; the cache is empty.

        Args:
            bundle: As `OnnxGrowingBackend` takes it, of the family "encoder_decoder".
            threads: Threads that compute one step.
            slots: Sequences that can be held at once.
            capacity: Tokens that each slot can hold.
            graph: An .onnx file in place of the bundle's decoder.
            encoder: One in place of its encoder.

        Raises:
            BackendError: onnxruntime can not load a graph.
        """
        super().__init__(bundle, threads=threads, slots=slots, capacity=capacity, graph=graph)
        self.source_capacity = source_size(bundle.manifest)
        self._encoder = OnnxEncoderBackend(
            encoder or bundle.file("encoder"), threads=threads, capacity=self.source_capacity
        )
        self._sources = ReadSources(slots)

    def read_source(
        self, first_slot: int, token_ids: NDArray[np.int64], counts: NDArray[np.int32]
    ) -> None:
        """See ``EncoderDecoderBackend``."""
        self._sources.read(first_slot, self._encoder.sources(token_ids, counts))

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

"""The reference builder of what reads images: every operation computed at once in numpy float32."""

from __future__ import annotations

import numpy as np

from edgewise.exporter.graph.attention import FullAttention
from edgewise.exporter.graph.numpy_encoder import attend_both_ways
from edgewise.exporter.graph.numpy_operations import Array, NumpyOperations
from edgewise.exporter.graph.weight import Weight


class NumpyImageBuilder(NumpyOperations):
    """Fulfils ``ImageBuilder`` by computing; the results are ``outputs``."""

    def __init__(self, pixels: Array) -> None:
        """Take the images, float32 [B, 3, side, side]."""
        self._pixels = pixels
        self.outputs: dict[str, Array] = {}

    def image_patches(self, side: int, patch: int, features: int) -> Array:
        """See ``ImageBuilder``."""
        batch, colours, height, width = self._pixels.shape
        if (height, width) != (side, side):
            raise ValueError(f"images of {height} x {width} pixels were given, not {side} x {side}")
        across = side // patch
        squares = self._pixels.reshape(batch, colours, across, patch, across, patch)
        flat = squares.transpose(0, 2, 4, 1, 3, 5).reshape(batch, across * across, -1)
        return np.pad(flat, ((0, 0), (0, 0), (0, features - flat.shape[-1])))

    def prepend(self, x: Array, row: Weight) -> Array:
        """See ``ImageBuilder``."""
        rows = np.broadcast_to(row.source.read(), (len(x), 1, x.shape[-1]))
        return np.concatenate([rows, x], axis=1)

    def later_tokens(self, x: Array) -> Array:
        """See ``ImageBuilder``."""
        return x[:, 1:]

    def position_embedding(self, weight: Weight, offset: int) -> Array:
        """See ``Operations``: all rows of the table, for every image has as many tokens."""
        return weight.source.read(offset)[None]

    def full_attention(self, query_key_value: Array, attention: FullAttention) -> Array:
        """See ``WholeSequences``."""
        return attend_both_ways(query_key_value, attention, np.zeros((), np.float32))

    def output(self, name: str, x: Array) -> None:
        """See ``WholeSequences``; the result stays in ``outputs``."""
        self.outputs[name] = x

"""The TFLite builder of what reads images: lowers the op vocabulary to what XNNPACK takes.

A model file holds one graph, named "see", of one image.

| input | type | shape |
|---|---|---|
| pixel_values | float32 | [3, side, side] |

| output | type | shape |
|---|---|---|
| what ``output`` names | float32 | [tokens, features] |
"""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgewise.exporter.graph.attention import FullAttention
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_graph import Edge, Operator
from edgewise.exporter.graph.tflite_operations import TfliteOperations
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.graph.weight import Weight, pack_name

PIXEL_VALUES = "pixel_values"
SIGNATURE = "see"


class TfliteImageBuilder(TfliteOperations):
    """Fulfils ``ImageBuilder`` for one image; `finish` adds the graph to the model file."""

    def __init__(self, model: TfliteFile, weights: WeightStore) -> None:
        """Begin a graph.

        Args:
            model: The file that takes graphs and arrays.
            weights: The model's weights.
        """
        super().__init__(model, weights, SIGNATURE, tokens=1)

    def image_patches(self, side: int, patch: int, features: int) -> Edge:
        """See ``ImageBuilder``; [T, features]."""
        g, across, name = self._graph, side // patch, "patches"
        pixels = g.input(PIXEL_VALUES, (3, side, side))
        squares = g.reshape(pixels, (3, across, patch, across, patch), f"{name}/squares")
        squares = g.transpose(squares, (1, 3, 0, 2, 4), f"{name}/in_order")
        tokens, numbers = across * across, 3 * patch * patch
        flat = g.reshape(squares, (tokens, numbers), f"{name}/flat")
        if features == numbers:
            return flat
        zeros = np.asarray([[0, 0], [0, features - numbers]], np.int32)
        return g.operator(
            Operator.PAD,
            [flat, g.constant(f"{name}/zeros", zeros)],
            (tokens, features),
            name,
            options=schema.PadOptionsT(),
        )

    def prepend(self, x: Edge, row: Weight) -> Edge:
        """See ``ImageBuilder``; [1 + T, D]."""
        g = self._graph
        first = g.constant(f"{pack_name([row])}/row", row.source.read()[None])
        return g.concatenate([first, x], f"with_first.{x.index}", axis=0)

    def later_tokens(self, x: Edge) -> Edge:
        """See ``ImageBuilder``; [T - 1, D]."""
        return self._graph.slice(x, 0, 1, x.shape[0] - 1, f"later_tokens.{x.index}")

    def position_embedding(self, weight: Weight, offset: int) -> Edge:
        """See ``Operations``: all rows of the table, for every image has as many tokens."""
        name = f"{pack_name([weight])}/from_{offset}"
        return self._graph.constant(name, weight.source.read(offset))

    def full_attention(self, query_key_value: Edge, attention: FullAttention) -> Edge:
        """See ``WholeSequences``."""
        if attention.relative_bias is not None:
            raise ValueError("tokens of an image have learned positions, not relative ones")
        return self._attend_both_ways(query_key_value, attention, [])

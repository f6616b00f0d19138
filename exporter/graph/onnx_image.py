"""The ONNX builder of what reads images: lowers the op vocabulary to onnxruntime's operators.

| name | type | shape |
|---|---|---|
| pixel_values | float32 | [batch, 3, side, side] |
| what ``output`` names | float32 | [batch, tokens, features] |
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from edgewise.exporter.graph.attention import FullAttention
from edgewise.exporter.graph.onnx_linear import read_vector
from edgewise.exporter.graph.onnx_operations import OnnxOperations
from edgewise.exporter.graph.weight import Weight, pack_name

PIXEL_VALUES = "pixel_values"
END = np.iinfo(np.int64).max  # of an axis, whatever its length


class OnnxImageBuilder(OnnxOperations):
    """Fulfils ``ImageBuilder``; values are names of graph edges. ``finish`` gives the model."""

    def image_patches(self, side: int, patch: int, features: int) -> str:
        """See ``ImageBuilder``."""
        g, across, name = self._graph, side // patch, "patches"
        g.add_input(PIXEL_VALUES, TensorProto.FLOAT, ["batch", 3, side, side])
        cut = g.constant(f"{name}/cut", np.array([-1, 3, across, patch, across, patch], np.int64))
        squares = g.node("Reshape", [PIXEL_VALUES, cut], f"{name}/squares")
        squares = g.node("Transpose", [squares], f"{name}/in_order", perm=[0, 2, 4, 1, 3, 5])
        numbers = 3 * patch * patch
        rows = g.constant(f"{name}/rows", np.array([-1, across * across, numbers], np.int64))
        flat = g.node("Reshape", [squares, rows], f"{name}/flat")
        if features == numbers:
            return flat
        pads = g.constant(f"{name}/pads", np.array([0, 0, 0, 0, 0, features - numbers], np.int64))
        return g.node("Pad", [flat, pads], name)

    def prepend(self, x: str, row: Weight) -> str:
        """See ``ImageBuilder``."""
        g, name = self._graph, f"{x}/with_first"
        shape = g.constant(f"{name}/row", np.array([1, row.shape[0]], np.int64))
        batch = g.node("Shape", [x], f"{name}/batch", start=0, end=1)
        shape = g.node("Concat", [batch, shape], f"{name}/shape", axis=0)
        rows = g.node("Expand", [self._vector(row), shape], f"{name}/rows")
        return g.node("Concat", [rows, x], name, axis=1)

    def later_tokens(self, x: str) -> str:
        """See ``ImageBuilder``."""
        g = self._graph
        one = g.constant("one", np.array([1], np.int64))
        end = g.constant("end", np.array([END], np.int64))
        return g.node("Slice", [x, one, end, one], f"{x}/later_tokens")

    def position_embedding(self, weight: Weight, offset: int) -> str:
        """See ``Operations``: all rows of the table, for every image has as many tokens."""
        table = read_vector(weight)[None, offset:]
        return self._graph.constant(f"{pack_name([weight])}/from_{offset}", table)

    def full_attention(self, query_key_value: str, attention: FullAttention) -> str:
        """See ``WholeSequences``."""
        if attention.relative_bias is not None:
            raise ValueError("tokens of an image have learned positions, not relative ones")
        name = f"layers.{attention.layer}/attention"
        parts = self._query_key_value(query_key_value, name)
        return self._multi_head_attention(parts, name, attention.heads, attention.scale)

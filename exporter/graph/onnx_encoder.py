"""The ONNX builder of encoders: lowers the op vocabulary to onnxruntime's fused operators.

| name | type | shape |
|---|---|---|
| input_ids | int64 | [batch, tokens] |
| attention_mask | int64 | [batch, tokens], 1 for real tokens, right-padded |
| token_type_ids | int64 | [batch, tokens]; only where the model has two types or more |
| what ``output`` names | float32 | [batch, tokens or 1, features] |
| cross_key_values.{layer}.key / .value | float32 | [batch, heads, tokens, head size] |

The last are what a decoder's graph takes under the same names: computed once a sequence.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from edgewise.exporter.graph.attention import CrossAttention, FullAttention, RelativeBias
from edgewise.exporter.graph.onnx_operations import (
    ATTENTION_MASK,
    CROSS_NAMES,
    INPUT_IDS,
    OnnxOperations,
)
from edgewise.exporter.graph.weight import Weight, pack_name

TOKEN_TYPES = "token_type_ids"  # noqa: S105 - a name, no secret


class OnnxEncoderBuilder(OnnxOperations):
    """Fulfils ``EncoderBuilder``; values are names of graph edges. ``finish`` gives the model."""

    # Inputs and outputs

    def token_ids(self) -> str:
        """See ``Operations``."""
        self._graph.add_input(INPUT_IDS, TensorProto.INT64, ["batch", "tokens"])
        self._graph.add_input(ATTENTION_MASK, TensorProto.INT64, ["batch", "tokens"])
        return INPUT_IDS

    def type_embedding(self, weight: Weight) -> str:
        """See ``EncoderBuilder``."""
        if weight.shape[0] == 1:
            return self._vector(weight)
        self._graph.add_input(TOKEN_TYPES, TensorProto.INT64, ["batch", "tokens"])
        name = f"{pack_name([weight])}/rows"
        return self._graph.node("Gather", [self._vector(weight), TOKEN_TYPES], name, axis=0)

    def output_cross(self, key_value: str, attention: CrossAttention) -> None:
        """See ``EncoderBuilder``."""
        g = self._graph
        shape = g.constant(
            f"heads/{attention.heads}x{attention.head_size}",
            np.array([0, 0, attention.heads, attention.head_size], np.int64),
        )
        declared: list[str | int] = ["batch", attention.heads, "tokens", attention.head_size]
        parts = [f"{key_value}/key", f"{key_value}/value"]
        self._split(key_value, parts)
        for part, template in zip(parts, CROSS_NAMES, strict=True):
            name = template.format(layer=attention.layer)
            heads = g.node("Reshape", [part, shape], f"{part}/heads")
            g.node("Transpose", [heads], name, perm=[0, 2, 1, 3])
            g.add_output(name, TensorProto.FLOAT, declared)

    # Operations

    def position_embedding(self, weight: Weight, offset: int) -> str:
        """See ``Operations``."""
        name = "positions"
        if not self._graph.has(name):
            axis = self._graph.constant("axis_0", np.array([0], np.int64))
            self._graph.node("Unsqueeze", [self._positions(), axis], name)
        return self._position_rows(weight, name, offset)

    def full_attention(self, query_key_value: str, attention: FullAttention) -> str:
        """See ``EncoderBuilder``."""
        name = f"layers.{attention.layer}/attention"
        parts = self._query_key_value(query_key_value, name)
        inputs = [*parts, "", self._int32_mask(ATTENTION_MASK)]
        if attention.relative_bias is not None:
            inputs.append(self._relative_bias(attention.relative_bias))
        return self._multi_head_attention(inputs, name, attention.heads, attention.scale)

    def first_token(self, x: str) -> str:
        """See ``EncoderBuilder``."""
        g = self._graph
        begin = g.constant("integers_0", np.array([0], np.int64))
        end = g.constant("one", np.array([1], np.int64))
        return g.node("Slice", [x, begin, end, end], f"{x}/first_token")

    def mean_of_tokens(self, x: str) -> str:
        """See ``EncoderBuilder``."""
        return self._graph.mean_of_real_tokens(x, ATTENTION_MASK, f"{x}/mean")

    # Parts

    def _positions(self) -> str:
        """Return the edge that counts the tokens from 0: int64 [T]."""
        name = "positions/row"
        if not self._graph.has(name):
            g = self._graph
            zero = g.constant("zero", np.array(0, np.int64))
            step = g.constant("scalar_one", np.array(1, np.int64))
            scalar = g.constant("scalar_shape", np.array([], np.int64))
            tokens = g.node("Shape", [INPUT_IDS], "positions/tokens", start=1, end=2)
            count = g.node("Reshape", [tokens, scalar], "positions/count")
            g.node("Range", [zero, count, step], name)
        return name

    def _relative_bias(self, relative: RelativeBias) -> str:
        """Return the edge with each head's bias: [1, heads, T, T], looked up by offset."""
        name = f"{pack_name([relative.weight])}/bias"
        if not self._graph.has(name):
            g = self._graph
            largest = relative.buckets.largest_distance
            offsets = np.arange(-largest, largest + 1)
            table = g.constant(f"{name}.by_offset", relative.of(offsets))
            lowest = g.constant(f"{name}.lowest", np.array(-largest, np.int64))
            highest = g.constant(f"{name}.highest", np.array(largest, np.int64))
            one = g.constant("one", np.array([1], np.int64))
            axis = g.constant("axis_0", np.array([0], np.int64))
            keys = self._positions()
            queries = g.node("Unsqueeze", [keys, one], f"{name}/queries")
            away = g.node("Sub", [keys, queries], f"{name}/away")
            away = g.node("Clip", [away, lowest, highest], f"{name}/offsets")
            index = g.node("Sub", [away, lowest], f"{name}/indices")
            rows = g.node("Gather", [table, index], f"{name}/rows", axis=0)
            heads = g.node("Transpose", [rows], f"{name}/heads", perm=[2, 0, 1])
            g.node("Unsqueeze", [heads, axis], name)
        return name

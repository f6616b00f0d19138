"""What the ONNX builders lower alike in encoders and decoders.

Rules: nodes are named after the module of the checkpoint they come from; weights leave for the
weights file as soon as they are quantized (``onnx_linear.py``); the graph itself holds only small
constants. Operators: onnxruntime/docs/ContribOperators.md and onnx/docs/Operators.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgewise.exporter.graph.onnx_graph import CONTRIB, OnnxGraph
from edgewise.exporter.graph.onnx_linear import LinearLowering, read_vector
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.protocol import Activation
from edgewise.exporter.graph.weight import Weight, pack_name
from edgewise.exporter.quantize.recipes import Recipe

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
CROSS_NAMES = ("cross_key_values.{layer}.key", "cross_key_values.{layer}.value")
MASKED = -1e9  # added to a score that must not count: exp of it is 0 in float32


class OnnxOperations:
    """Fulfils ``Operations`` but for the inputs; values are names of graph edges."""

    def __init__(self, weights: WeightFile, recipe: Recipe) -> None:
        """Begin a graph.

        Args:
            weights: The file that takes all large tensors.
            recipe: The format of each role's weights.
        """
        self._graph = OnnxGraph(weights)
        self._linear = LinearLowering(self._graph, recipe)
        self._elementwise = 0  # sums and scaled values so far, for their names

    def finish(self, producer_version: str) -> onnx.ModelProto:
        """Return the checked model; its weights lie in the weights file."""
        return self._graph.to_model(producer_version)

    def embedding(self, token_ids: str, weight: Weight) -> str:
        """See ``Operations``."""
        return self._linear.embedding(token_ids, weight)

    def linear(
        self, x: str, weights: Sequence[Weight], biases: Sequence[Weight] | None = None
    ) -> str:
        """See ``Operations``."""
        return self._linear.linear(x, weights, biases)

    def rms_norm(self, x: str, weight: Weight, epsilon: float) -> str:
        """See ``Operations``."""
        scale = self._graph.constant(weight.name, read_vector(weight))
        return self._graph.node(
            "SimplifiedLayerNormalization",
            [x, scale],
            weight.name.removesuffix(".weight"),
            axis=-1,
            epsilon=epsilon,
            stash_type=1,
        )

    def add_rms_norm(
        self, residual: str, x: str, weight: Weight, epsilon: float
    ) -> tuple[str, str]:
        """See ``Operations``; one operator gives the norm and the sum (output 3)."""
        scale = self._graph.constant(weight.name, read_vector(weight))
        name = weight.name.removesuffix(".weight")
        total = f"{name}/sum"
        self._graph.nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [x, residual, scale],
                [name, "", "", total],
                name=name,
                domain=CONTRIB,
                epsilon=epsilon,
            )
        )
        return total, name

    def layer_norm(self, x: str, weight: Weight, bias: Weight, epsilon: float) -> str:
        """See ``Operations``."""
        return self._graph.node(
            "LayerNormalization",
            [x, self._vector(weight), self._vector(bias)],
            weight.name.removesuffix(".weight"),
            axis=-1,
            epsilon=epsilon,
        )

    def add_layer_norm(
        self, residual: str, x: str, weight: Weight, bias: Weight, epsilon: float
    ) -> tuple[str, str]:
        """See ``Operations``; one operator gives the norm and the sum (output 3)."""
        name = weight.name.removesuffix(".weight")
        total = f"{name}/sum"
        self._graph.nodes.append(
            helper.make_node(
                "SkipLayerNormalization",
                [x, residual, self._vector(weight), self._vector(bias)],
                [name, "", "", total],
                name=name,
                domain=CONTRIB,
                epsilon=epsilon,
            )
        )
        return total, name

    def add(self, left: str, right: str) -> str:
        """See ``Operations``."""
        return self._graph.node("Add", [left, right], self._elementwise_name("sum"))

    def scale(self, x: str, factor: float) -> str:
        """See ``Operations``."""
        number = self._graph.constant(f"number/{factor!r}", np.array(factor, np.float32))
        return self._graph.node("Mul", [x, number], self._elementwise_name("scaled"))

    def activation(self, x: str, activation: Activation) -> str:
        """See ``Operations``."""
        name = f"{x}/{activation}"
        match activation:
            case "silu":
                return self._graph.node("QuickGelu", [x], name, domain=CONTRIB, alpha=1.0)
            case "quick_gelu":
                return self._graph.node("QuickGelu", [x], name, domain=CONTRIB, alpha=1.702)
            case "tanh":
                return self._graph.node("Tanh", [x], name)
            case "relu":
                return self._graph.node("Relu", [x], name)
            case "gelu":
                return self._graph.node("Gelu", [x], name, approximate="none")
            case "gelu_tanh":
                return self._graph.node("Gelu", [x], name, approximate="tanh")

    def gated_activation(self, gate_up: str, activation: Activation) -> str:
        """See ``Operations``; SiLU is QuickGelu with alpha 1: x * sigmoid(x)."""
        gate, up = f"{gate_up}/gate", f"{gate_up}/up"
        self._graph.nodes.append(
            helper.make_node(
                "Split", [gate_up], [gate, up], name=f"{gate_up}/split", axis=-1, num_outputs=2
            )
        )
        return self._graph.node("Mul", [self.activation(gate, activation), up], f"{gate_up}/gated")

    def output(self, name: str, x: str) -> None:
        """See ``NamedResults``."""
        self._graph.node("Identity", [x], name)  # an edge may be several results, and go on
        self._graph.add_output(name, TensorProto.FLOAT, ["batch", f"{name}_tokens", f"{name}_size"])

    # Parts

    def _elementwise_name(self, kind: str) -> str:
        self._elementwise += 1
        return f"{kind}.{self._elementwise}"

    def _vector(self, weight: Weight) -> str:
        return self._graph.constant(weight.name, read_vector(weight))

    def _position_rows(self, weight: Weight, positions: str, offset: int) -> str:
        """Look up learned positions: int64 [..., T] give [..., T, D]."""
        g, name = self._graph, pack_name([weight])
        first = g.constant(f"{name}.offset", np.array(offset, np.int64))
        rows = g.node("Add", [positions, first], f"{name}/indices")
        return g.node("Gather", [self._vector(weight), rows], f"{name}/rows", axis=0)

    def _split(self, x: str, parts: list[str]) -> None:
        self._graph.nodes.append(
            helper.make_node(
                "Split", [x], parts, name=f"{x}/split", axis=-1, num_outputs=len(parts)
            )
        )

    def _query_key_value(self, packed: str, name: str) -> list[str]:
        parts = [f"{name}/{part}" for part in ("query", "key", "value")]
        self._split(packed, parts)
        return parts

    def _int32_mask(self, mask: str) -> str:
        name = f"{mask}/int32"
        if not self._graph.has(name):
            self._graph.node("Cast", [mask], name, to=TensorProto.INT32)
        return name

    def _multi_head_attention(
        self, inputs: Sequence[str], name: str, heads: int, scale: float
    ) -> str:
        """Emit attention over queries, keys, values, bias, mask and relative bias."""
        return self._graph.node(
            "MultiHeadAttention",
            inputs,
            name,
            domain=CONTRIB,
            num_heads=heads,
            scale=scale,
            mask_filter_value=MASKED,
        )

"""What the TFLite builders lower alike in encoders and decoders: one sequence, shapes static."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgewise.exporter.graph.attention import FullAttention
from edgewise.exporter.graph.protocol import Activation
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_graph import Edge, ElementType, Operator, TfliteGraph
from edgewise.exporter.graph.tflite_linear import LinearLowering
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.graph.weight import Weight, pack_name

TOKEN_IDS = "token_ids"  # noqa: S105 - a name, no secret
CROSS_NAMES = ("cross_key.{layer}", "cross_value.{layer}")
MASKED = -1e9  # added to a score that must not count: exp of it is 0 in float32


class TfliteOperations:
    """Fulfils ``Operations`` for one graph; `finish` adds it to the model file."""

    def __init__(
        self, model: TfliteFile, weights: WeightStore, signature: str, tokens: int
    ) -> None:
        """Begin a graph.

        Args:
            model: The file that takes graphs and arrays.
            weights: The model's weights, shared by its graphs.
            signature: The graph's name.
            tokens: How many tokens it takes at once.
        """
        self._graph = TfliteGraph(model, signature)
        self._linear = LinearLowering(self._graph, weights)
        self._weights = weights
        self._tokens = tokens

    def finish(self) -> None:
        """Add the graph to the model."""
        self._graph.finish()

    # The vocabulary

    def embedding(self, token_ids: Edge, weight: Weight) -> Edge:
        """See ``Operations``."""
        return self._linear.embedding(token_ids, weight)

    def linear(
        self, x: Edge, weights: Sequence[Weight], biases: Sequence[Weight] | None = None
    ) -> Edge:
        """See ``Operations``."""
        return self._linear.linear(x, weights, biases)

    def rms_norm(self, x: Edge, weight: Weight, epsilon: float) -> Edge:
        """See ``Operations``."""
        g, name = self._graph, weight.name.removesuffix(".weight")
        normed = self._root_mean_square_normed(x, epsilon, name)
        return g.binary(Operator.MUL, normed, self._weights.vector(g, [weight]), name)

    def add_rms_norm(
        self, residual: Edge, x: Edge, weight: Weight, epsilon: float
    ) -> tuple[Edge, Edge]:
        """See ``Operations``."""
        name = f"{weight.name.removesuffix('.weight')}/sum"
        total = self._graph.binary(Operator.ADD, residual, x, name)
        return total, self.rms_norm(total, weight, epsilon)

    def layer_norm(self, x: Edge, weight: Weight, bias: Weight, epsilon: float) -> Edge:
        """See ``Operations``."""
        g, name = self._graph, weight.name.removesuffix(".weight")
        mean = self._mean_of_features(x, f"{name}/mean")
        centred = g.binary(Operator.SUB, x, mean, f"{name}/centred")
        squared = g.binary(Operator.MUL, centred, centred, f"{name}/squared")
        variance = self._mean_of_features(squared, f"{name}/variance")
        variance = g.binary(Operator.ADD, variance, g.number(epsilon), f"{name}/above_0")
        factor = g.unary(Operator.RSQRT, variance, f"{name}/factor")
        normed = g.binary(Operator.MUL, centred, factor, f"{name}/unscaled")
        scaled = g.binary(Operator.MUL, normed, self._weights.vector(g, [weight]), f"{name}/scaled")
        return g.binary(Operator.ADD, scaled, self._weights.vector(g, [bias]), name)

    def add_layer_norm(
        self, residual: Edge, x: Edge, weight: Weight, bias: Weight, epsilon: float
    ) -> tuple[Edge, Edge]:
        """See ``Operations``."""
        name = f"{weight.name.removesuffix('.weight')}/sum"
        total = self._graph.binary(Operator.ADD, residual, x, name)
        return total, self.layer_norm(total, weight, bias, epsilon)

    def add(self, left: Edge, right: Edge) -> Edge:
        """See ``Operations``."""
        return self._graph.binary(Operator.ADD, left, right, f"sum.{left.index}.{right.index}")

    def scale(self, x: Edge, factor: float) -> Edge:
        """See ``Operations``."""
        g = self._graph
        return g.binary(Operator.MUL, x, g.number(factor), f"scaled.{x.index}")

    def activation(self, x: Edge, activation: Activation) -> Edge:
        """See ``Operations``."""
        return self._activate(x, activation, f"activation.{x.index}")

    def gated_activation(self, gate_up: Edge, activation: Activation) -> Edge:
        """See ``Operations``."""
        name, width = f"gated.{gate_up.index}", gate_up.shape[-1] // 2
        gate, up = self._graph.split(gate_up, (width, width), name)
        activated = self._activate(gate, activation, name)
        return self._graph.binary(Operator.MUL, activated, up, f"{name}/gated")

    def output(self, name: str, x: Edge) -> None:
        """See ``NamedResults``."""
        self._graph.output(name, x)

    # Parts

    def _activate(self, x: Edge, activation: Activation, name: str) -> Edge:
        g = self._graph
        match activation:
            case "silu":
                gate = g.unary(Operator.LOGISTIC, x, f"{name}/sigmoid")
                return g.binary(Operator.MUL, x, gate, f"{name}/silu")
            case "quick_gelu":
                scaled = g.binary(Operator.MUL, x, g.number(1.702), f"{name}/scaled")
                gate = g.unary(Operator.LOGISTIC, scaled, f"{name}/sigmoid")
                return g.binary(Operator.MUL, x, gate, f"{name}/quick_gelu")
            case "tanh":
                return g.unary(Operator.TANH, x, f"{name}/tanh")
            case "relu":
                return g.unary(Operator.RELU, x, f"{name}/relu")
            case "gelu" | "gelu_tanh":
                options = schema.GeluOptionsT(approximate=activation == "gelu_tanh")
                return g.operator(Operator.GELU, [x], x.shape, f"{name}/gelu", options=options)

    def _root_mean_square_normed(self, x: Edge, epsilon: float, name: str) -> Edge:
        """Divide by the root of the mean square over the last axis."""
        g = self._graph
        squared = g.binary(Operator.MUL, x, x, f"{name}/squared")
        mean = self._mean_of_features(squared, f"{name}/mean")
        mean = g.binary(Operator.ADD, mean, g.number(epsilon), f"{name}/mean_above_0")
        factor = g.unary(Operator.RSQRT, mean, f"{name}/factor")
        return g.binary(Operator.MUL, x, factor, f"{name}/unscaled")

    def _mean_of_features(self, x: Edge, name: str) -> Edge:
        return self._graph.operator(
            Operator.MEAN,
            [x, self._graph.integers([len(x.shape) - 1])],
            (*x.shape[:-1], 1),
            name,
            options=schema.ReducerOptionsT(keepDims=True),
        )

    def _position_rows(self, weight: Weight, offset: int, positions: int, rows: Edge) -> Edge:
        """Look up learned positions: indices [T] give [T, D]; beyond the table its last row."""
        table = weight.source.read()[offset:]
        missing = max(positions - len(table), 0)
        table = np.concatenate([table, np.repeat(table[-1:], missing, axis=0)])
        name = f"{pack_name([weight])}/from_{offset}/{len(table)}"
        return self._linear.table_rows(name, table, rows)

    def _beyond_mask(self, count: Edge, tokens: int, name: str) -> Edge:
        """Make [1, 1, 1, tokens]: 0 below a count, very negative from there on.

        The count is int32 [1]. A runtime may call with fewer real tokens than the graph takes.
        """
        g = self._graph
        number = self._to_float32(count, f"{name}/count")
        middles = np.arange(tokens, dtype=np.float32) + np.float32(0.5)
        places = g.constant(f"mask/places_{tokens}", middles[None, None, None])
        distance = g.binary(Operator.SUB, number, places, f"{name}/distance")
        negative = g.binary(Operator.MINIMUM, distance, g.number(0), f"{name}/negative")
        return g.binary(Operator.MUL, negative, g.number(-2 * MASKED), name)

    def _attend_both_ways(
        self, query_key_value: Edge, attention: FullAttention, biases: Sequence[Edge]
    ) -> Edge:
        """Attend to a whole sequence: [T, 3 * heads * size] gives [T, heads * size]."""
        g, name = self._graph, f"layers.{attention.layer}/attention"
        heads = attention.heads
        rows = self._heads_first(query_key_value, 3 * heads, name)
        query, key, value = (
            g.slice(rows, 1, index * heads, heads, f"{name}/{part}")
            for index, part in enumerate(("query", "key", "value"))
        )
        query = self._scaled(query, attention.scale, f"{name}/scaled")
        context = self._attend_to(query, key, value, biases, name)
        return self._heads_last(context, heads, attention.head_size, name)

    def _attend_to(
        self, query: Edge, key: Edge, value: Edge, biases: Sequence[Edge], name: str
    ) -> Edge:
        """Attend over keys and values as one, all [1, heads, T, size]; queries are scaled."""
        g = self._graph
        scores = g.matrix_product(query, key, f"{name}/scores", transposed=True)
        for bias in biases:
            scores = g.binary(Operator.ADD, scores, bias, f"{name}/biased.{bias.index}")
        probabilities = self._softmax(scores, name)
        return g.matrix_product(probabilities, value, name, transposed=False)

    def _scaled(self, x: Edge, factor: float, name: str) -> Edge:
        if factor == 1:
            return x
        return self._graph.binary(Operator.MUL, x, self._graph.number(factor), name)

    def _softmax(self, scores: Edge, name: str) -> Edge:
        return self._graph.operator(
            Operator.SOFTMAX,
            [scores],
            scores.shape,
            f"{name}/probabilities",
            options=schema.SoftmaxOptionsT(beta=1.0),
        )

    def _heads_first(self, x: Edge, heads: int, name: str) -> Edge:
        """Turn [T, heads * size] to [1, heads, T, size]; one token's numbers stay in place."""
        tokens, size = x.shape[0], x.shape[1] // heads
        if tokens == 1:
            return self._graph.reshape(x, (1, heads, 1, size), f"{name}/heads")
        x = self._graph.reshape(x, (1, tokens, heads, size), f"{name}/tokens")
        return self._graph.transpose(x, (0, 2, 1, 3), f"{name}/heads")

    def _heads_last(self, x: Edge, heads: int, size: int, name: str) -> Edge:
        tokens = math.prod(x.shape) // (heads * size)
        if tokens > 1:
            x = self._graph.reshape(x, (heads, tokens, size), f"{name}/context_heads")
            x = self._graph.transpose(x, (1, 0, 2), f"{name}/context_tokens")
        return self._graph.reshape(x, (tokens, heads * size), f"{name}/context")

    def _to_float32(self, x: Edge, name: str) -> Edge:
        options = schema.CastOptionsT(inDataType=ElementType.INT32, outDataType=ElementType.FLOAT32)
        return self._graph.operator(Operator.CAST, [x], x.shape, name, options=options)

"""Matrix products and embedding look-ups of a .tflite graph, one lowering a weight format.

| format | product | look-up |
|---|---|---|
| float32 | FULLY_CONNECTED | EMBEDDING_LOOKUP |
| float16 | DEQUANTIZE (folded by XNNPACK), FULLY_CONNECTED | GATHER, DEQUANTIZE |
| channel (int8, int4), block (int4) | FULLY_CONNECTED | EMBEDDING_LOOKUP |
| channel, scaled apart | FULLY_CONNECTED, MUL | EMBEDDING_LOOKUP of rows and of scales, MUL |

In products of integer weights XNNPACK quantizes the activations itself, each row by its own range.
Rule: look-ups are no operators of XNNPACK's; they stand before everything else, so that the rest of
the graph is one partition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgewise.exporter.graph.tflite_graph import Edge, Operator, TfliteGraph
from edgewise.exporter.graph.tflite_weights import StoredWeight, WeightStore
from edgewise.exporter.graph.weight import Weight, pack_name

# Versions by the form of the weights.
FULLY_CONNECTED_VERSIONS = {"float32": 1, "float16": 1, "channel": 12, "block": 13}
EMBEDDING_LOOKUP_VERSIONS = {"float32": 1, "channel": 4, "block": 4}
# With one scale for a whole matrix.
FULLY_CONNECTED_OF_ONE_SCALE, EMBEDDING_LOOKUP_OF_ONE_SCALE = 9, 3


class LinearLowering:
    """Lowers ``linear`` and ``embedding`` into a graph."""

    def __init__(self, graph: TfliteGraph, weights: WeightStore) -> None:
        """Begin with nothing lowered."""
        self._graph = graph
        self._weights = weights
        self._widened: dict[str, Edge] = {}

    def linear(self, x: Edge, weights: Sequence[Weight], biases: Sequence[Weight] | None) -> Edge:
        """Emit one product for the pack: [T, K] gives [T, N]."""
        stored = self._weights.matrix(weights)
        bias = self._weights.vector(self._graph, biases) if biases else None
        kind = stored.form.kind
        matrix = self._widen(stored) if kind == "float16" else stored.edge(self._graph)
        name, apart = pack_name(weights), stored.is_scaled_apart
        product = self._graph.operator(
            Operator.FULLY_CONNECTED,
            [x, matrix, None if apart else bias],
            (x.shape[0], stored.rows),
            f"{name}/unscaled" if apart else name,
            version=FULLY_CONNECTED_OF_ONE_SCALE if apart else FULLY_CONNECTED_VERSIONS[kind],
            options=schema.FullyConnectedOptionsT(
                keepNumDims=True, asymmetricQuantizeInputs=kind in ("channel", "block")
            ),
        )
        if not apart:
            return product
        scales = stored.channel_scales(self._graph, (stored.rows,))
        product = self._graph.binary(Operator.MUL, product, scales, f"{name}/scaled")
        if bias is None:
            return product
        return self._graph.binary(Operator.ADD, product, bias, name)

    def embedding(self, token_ids: Edge, weight: Weight) -> Edge:
        """Emit a look-up: ids [T] give [T, D]."""
        stored = self._weights.matrix([weight])
        shape = (token_ids.shape[0], stored.columns)
        name = f"{pack_name([weight])}/rows"
        if stored.form.kind == "float16":
            half = self._graph.operator(
                Operator.GATHER,
                [stored.edge(self._graph), token_ids],
                shape,
                f"{name}_float16",
                options=schema.GatherOptionsT(axis=0),
                element_type=schema.TensorType.FLOAT16,
            )
            return self._dequantize(half, name)
        apart = stored.is_scaled_apart
        version = EMBEDDING_LOOKUP_VERSIONS[stored.form.kind]
        rows = self._graph.operator(
            Operator.EMBEDDING_LOOKUP,
            [token_ids, stored.edge(self._graph)],
            shape,
            f"{name}_unscaled" if apart else name,
            version=EMBEDDING_LOOKUP_OF_ONE_SCALE if apart else version,
        )
        if not apart:
            return rows
        scales = self._graph.operator(
            Operator.EMBEDDING_LOOKUP,
            [token_ids, stored.channel_scales(self._graph, (stored.rows, 1))],
            (shape[0], 1),
            f"{name}_scales",
        )
        return self._graph.binary(Operator.MUL, rows, scales, name)

    def table_rows(self, name: str, table: NDArray[np.float32], rows: Edge) -> Edge:
        """Emit a look-up of rows of a float32 constant."""
        return self._graph.operator(
            Operator.EMBEDDING_LOOKUP,
            [rows, self._graph.constant(name, table)],
            (rows.shape[0], table.shape[1]),
            f"{name}/rows",
        )

    def _widen(self, stored: StoredWeight) -> Edge:
        if stored.name not in self._widened:
            self._widened[stored.name] = self._dequantize(
                stored.edge(self._graph), f"{stored.name}/float32"
            )
        return self._widened[stored.name]

    def _dequantize(self, x: Edge, name: str) -> Edge:
        return self._graph.operator(
            Operator.DEQUANTIZE, [x], x.shape, name, version=3, options=schema.DequantizeOptionsT()
        )

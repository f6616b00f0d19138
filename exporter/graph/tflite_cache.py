"""How a decoder's graph reads the keys and values that are kept, and returns new ones.

They are float32, or codes of 8 bits whose steps differ by head and feature. No operator takes such
steps of a tensor that changes, so codes are numbers of scale 1, which are multiplied by their
steps. XNNPACK does so inside its partition, one layer after the other. Float16 it turns to float32
outside only, with room for all layers at once; and without the multiplication, a product that reads
what DEQUANTIZE gives lays out 12 MiB for each layer's keys at 1,024 positions (ai-edge-litert 2.3).

Rule: new tokens are attended to as they are kept, so that it makes no difference which tokens a
call brings and which it finds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgewise.exporter.graph.attention import CacheScales
from edgewise.exporter.graph.tflite_graph import Edge, ElementType, Operator, Shape, TfliteGraph

CACHE_NAMES = ("key_cache.{layer}", "value_cache.{layer}")
NEW_NAMES = ("new_key.{layer}", "new_value.{layer}")


class KeptCache:
    """The cache of one graph."""

    def __init__(self, graph: TfliteGraph, scales: Mapping[int, CacheScales] | None) -> None:
        """Begin.

        Args:
            graph: Where operators are added.
            scales: By layer, what a step of each code stands for; None for float32.
        """
        self._graph = graph
        self._scales = scales

    def kept(self, layer: int, shape: Shape) -> tuple[Edge, Edge]:
        """Declare a layer's keys and values as they are kept; return them in float32."""
        keys, values = (name.format(layer=layer) for name in CACHE_NAMES)
        if self._scales is None:
            return self._graph.input(keys, shape), self._graph.input(values, shape)
        scales = self._scales[layer]
        return (
            self._read(self._codes(keys, shape), scales.keys, keys),
            self._read(self._codes(values, shape), scales.values, values),
        )

    def returned(self, layer: int, new_key: Edge, new_value: Edge) -> tuple[Edge, Edge]:
        """Declare new keys and values as results; return them as they will be read."""
        keys, values = (name.format(layer=layer) for name in NEW_NAMES)
        if self._scales is None:
            self._graph.output(keys, new_key)
            self._graph.output(values, new_value)
            return new_key, new_value
        scales = self._scales[layer]
        return (
            self._written(new_key, scales.keys, keys),
            self._written(new_value, scales.values, values),
        )

    def _codes(self, name: str, shape: Shape) -> Edge:
        return self._graph.input(name, shape, ElementType.INT8, _of_scale_1())

    def _written(self, new: Edge, steps: NDArray[np.float32], name: str) -> Edge:
        """Return new numbers as codes, and read these."""
        in_one = self._by_feature(np.reciprocal(steps), f"{name}/codes_in_one")
        codes = self._graph.operator(
            Operator.QUANTIZE,
            [self._graph.binary(Operator.MUL, new, in_one, f"{name}/in_steps")],
            new.shape,
            name,
            options=schema.QuantizeOptionsT(),
            element_type=ElementType.INT8,
            quantization=_of_scale_1(),
        )
        self._graph.output(name, codes)
        return self._read(codes, steps, name)

    def _read(self, codes: Edge, steps: NDArray[np.float32], name: str) -> Edge:
        numbers = self._graph.operator(
            Operator.DEQUANTIZE,
            [codes],
            codes.shape,
            f"{name}/numbers",
            version=2,
            options=schema.DequantizeOptionsT(),
        )
        by_feature = self._by_feature(steps, f"{name}/steps")
        return self._graph.binary(Operator.MUL, numbers, by_feature, f"{name}/read")

    def _by_feature(self, factors: NDArray[np.float32], name: str) -> Edge:
        """Return [key-value heads, size] in a shape that broadcasts over positions."""
        return self._graph.constant(name, factors[None, :, None].astype(np.float32))


def _of_scale_1() -> schema.QuantizationParametersT:
    parameters = schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = [1.0], [0]
    return parameters

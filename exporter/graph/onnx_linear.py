"""Matrix products and embedding look-ups of the ONNX graph, one lowering a weight format.

| format | product | look-up |
|---|---|---|
| float32 | FusedMatMul, weights [N, K] as stored | Gather |
| float16 | Cast, then the same (onnxruntime folds the Cast when it loads) | Gather, Cast |
| block, and kept GGUF blocks | MatMulNBits (``onnx_blocks.py``) | GatherBlockQuantized |
| channel (int8) | rows of x quantized one by one, MatMulIntegerToFloat | Gather, scaled |

Rules: one pack of weights is written once, under the name of its first weight; a tied head and its
embedding are the same bytes in the file wherever the format lets both read them. Int8 products take
both sides unsigned with zero point 128: on x86 without VNNI onnxruntime's unsigned-by-signed kernel
saturates its 16-bit sums, the unsigned one is exact, and ARM computes either at the same speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.graph.onnx_blocks import BlockLowering
from edgewise.exporter.graph.onnx_graph import CONTRIB, OnnxGraph
from edgewise.exporter.graph.weight import Weight, pack_name
from edgewise.exporter.quantize.channelwise import ChannelQuantized
from edgewise.exporter.quantize.recipes import ROLES, Recipe, WeightFormat
from edgewise.exporter.quantize.streaming import (
    can_pack,
    quantize_tensors,
    read_rows,
)

UNSIGNED_ZERO_POINT = 128
SMALLEST_ROW_MAXIMUM = 1e-12  # a row of zeros must not divide by zero


class OnnxFormatError(EdgewiseError):
    """A weight format for which onnxruntime has no operator."""


class LinearLowering:
    """Lowers ``linear`` and ``embedding`` into a graph by the formats of a recipe."""

    def __init__(self, graph: OnnxGraph, recipe: Recipe) -> None:
        """Begin with nothing written.

        Raises:
            OnnxFormatError: A role's format is int4-channel.
        """
        for role in ROLES:
            form = recipe.format_for(role)
            if form.kind == "channel" and form.bits != 8:
                raise OnnxFormatError(
                    f"recipe {str(recipe)!r} stores {role} as {form}, which no operator of "
                    "onnxruntime takes; use int4-block32, or int8 (per channel)"
                )
        self._graph = graph
        self._recipe = recipe
        self._blocks = BlockLowering(graph, int8_activations=recipe.activations == "int8")

    # Products

    def linear(self, x: str, weights: Sequence[Weight], biases: Sequence[Weight] | None) -> str:
        """Emit one product for the pack, or one a weight where formats differ; return its edge."""
        form = self._format(weights[0])
        is_mixed = any(self._format(weight) != form for weight in weights)
        if is_mixed or not can_pack([weight.source for weight in weights], form):
            parts = [
                self.linear(x, [weight], [biases[index]] if biases else None)
                for index, weight in enumerate(weights)
            ]
            return self._graph.node("Concat", parts, f"{pack_name(weights)}/joined", axis=-1)
        name = pack_name(weights)
        bias = ""
        if biases:
            joined = np.concatenate([read_vector(bias) for bias in biases])
            bias = self._graph.constant(f"{name}.bias", joined)
        if form.kind in ("block", "keep"):
            product = self._blocks.product(x, weights, form, bias)
            if product is not None:
                return product
            form = WeightFormat.parse("fp32")
        if form.kind == "channel":
            product = self._channel_product(x, name, weights)
        else:
            product = self._float_product(x, name, weights, form)
        return self._graph.node("Add", [product, bias], f"{name}/biased") if bias else product

    def _float_product(
        self, x: str, name: str, weights: Sequence[Weight], form: WeightFormat
    ) -> str:
        matrix = self._float_matrix(weights, form)
        return self._graph.node(
            "FusedMatMul", [x, matrix], name, domain=CONTRIB, transA=0, transB=1, alpha=1.0
        )

    def _float_matrix(self, weights: Sequence[Weight], form: WeightFormat) -> str:
        """Write [N, K] once and return an edge that gives it as float32."""
        half = form.kind == "float16"
        name = f"{pack_name(weights)}.{form}"
        if not self._graph.has_initializer(name):
            rows = sum(weight.shape[0] for weight in weights)
            dtype: np.dtype[Any] = np.dtype(np.float16 if half else np.float32)
            chunks = (chunk for weight in weights for chunk in read_rows(weight.source, dtype.type))
            proto, _ = self._graph.weights.add_chunks(
                name, chunks, (rows, weights[0].shape[1]), dtype
            )
            self._graph.initializer(proto)
        if not half:
            return name
        widened = f"{name}/float32"
        if not self._graph.has(widened):
            self._graph.node("Cast", [name], widened, to=TensorProto.FLOAT)
        return widened

    def _channel_product(self, x: str, name: str, weights: Sequence[Weight]) -> str:
        codes, row_scales = self._quantized_rows(x)
        matrix, scales = f"{name}.int8", f"{name}.scales"
        if not self._graph.has_initializer(matrix):
            quantized = quantize_tensors(
                [weight.stored for weight in weights], WeightFormat.parse("int8")
            )
            if not isinstance(quantized, ChannelQuantized):
                raise TypeError(f"{name!r} did not quantize to channels")
            rows, columns = quantized.values.shape
            proto, _ = self._graph.weights.add_transposed(
                matrix, [_unsigned(quantized.values)], (columns, rows), np.dtype(np.uint8)
            )
            self._graph.initializer(proto)
            self._graph.constant(scales, quantized.scales)
        zero_point = self._graph.constant("zero_point_128", np.array(UNSIGNED_ZERO_POINT, np.uint8))
        one = self._graph.constant("scale_1", np.array(1, np.float32))
        product = self._graph.node(
            "MatMulIntegerToFloat",
            [codes, matrix, one, scales, zero_point, zero_point],
            f"{name}/unscaled",
            domain=CONTRIB,
        )
        return self._graph.node("Mul", [product, row_scales], name)

    def _quantized_rows(self, x: str) -> tuple[str, str]:
        """Quantize each token's features by their own largest magnitude; once for each x."""
        codes, scales = f"{x}/codes", f"{x}/row_scales"
        if not self._graph.has(codes):
            g = self._graph
            axis = g.constant("axis_-1", np.array([-1], np.int64))
            least = np.array(SMALLEST_ROW_MAXIMUM, np.float32)
            smallest = g.constant("smallest_row_maximum", least)
            step = g.constant("one_127th", np.array(1 / 127, np.float32))
            one = g.constant("scale_1", np.array(1, np.float32))
            zero_point = g.constant("zero_point_128", np.array(UNSIGNED_ZERO_POINT, np.uint8))
            magnitude = g.node("Abs", [x], f"{x}/magnitude")
            largest = g.node("ReduceMax", [magnitude, axis], f"{x}/row_maximum", keepdims=1)
            largest = g.node("Max", [largest, smallest], f"{x}/row_maximum_above_0")
            g.node("Mul", [largest, step], scales)
            divided = g.node("Div", [x, scales], f"{x}/row_scaled")
            g.node("QuantizeLinear", [divided, one, zero_point], codes)
        return codes, scales

    # Look-ups

    def embedding(self, token_ids: str, weight: Weight) -> str:
        """Emit a look-up of rows; return its edge [batch, new tokens, D]."""
        form = self._format(weight)
        name = weight.name.removesuffix(".weight")
        if form.kind in ("block", "keep"):
            rows = self._blocks.lookup(token_ids, weight, form)
            if rows is not None:
                return rows
            form = WeightFormat.parse("fp32")
        if form.kind == "channel":
            return self._channel_lookup(token_ids, name, weight)
        half = form.kind == "float16"
        self._float_matrix([weight], form)  # written here, so that a tied head finds it
        stored = f"{pack_name([weight])}.{form}"
        rows = self._graph.node("Gather", [stored, token_ids], f"{name}/rows", axis=0)
        if not half:
            return rows
        return self._graph.node("Cast", [rows], f"{name}/rows_float32", to=TensorProto.FLOAT)

    def _channel_lookup(self, token_ids: str, name: str, weight: Weight) -> str:
        quantized = quantize_tensors([weight.source], WeightFormat.parse("int8"))
        if not isinstance(quantized, ChannelQuantized):
            raise TypeError(f"{name!r} did not quantize to channels")
        g = self._graph
        codes = g.constant(f"{name}.rows.int8", quantized.values)
        scales = g.constant(f"{name}.rows.scales", quantized.scales[:, None])
        row = g.node("Gather", [codes, token_ids], f"{name}/codes", axis=0)
        row = g.node("Cast", [row], f"{name}/codes_float32", to=TensorProto.FLOAT)
        scale = g.node("Gather", [scales, token_ids], f"{name}/row_scales", axis=0)
        return g.node("Mul", [row, scale], f"{name}/rows")

    # Parts

    def _format(self, weight: Weight) -> WeightFormat:
        if weight.role not in ROLES:
            raise ValueError(f"a weight of role {weight.role!r} is no matrix")
        return weight.format_in(self._recipe)


def read_vector(weight: Weight) -> NDArray[np.float32]:
    """Return the whole of a norm's weight or a bias, checked as the matrices are.

    Raises:
        QuantizeError: It holds a number that is not finite.
    """
    return np.concatenate(list(read_rows(weight.source)))


def _unsigned(values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Shift int8 codes to uint8 with zero point 128: flip the top bit."""
    return values.view(np.uint8) ^ np.uint8(0x80)

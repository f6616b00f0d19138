"""Matrix products and embedding look-ups of the ONNX graph, one lowering a weight format.

| format | product | look-up |
|---|---|---|
| float32 | FusedMatMul, weights [N, K] as stored | Gather |
| float16 | Cast, then the same (onnxruntime folds the Cast when it loads) | Gather, Cast |
| block, 4 or 8 bits | MatMulNBits | GatherBlockQuantized |
| channel (int8) | rows of x quantized one by one, MatMulIntegerToFloat | Gather, DequantizeLinear |
| kept GGUF blocks | MatMulNBits; a block's minimum times the sum of its inputs is added | as block |

Rules: one pack of weights is written once, under the name of its first weight; a tied head and its
embedding are the same bytes in the file wherever the format lets both read them. Int8 products take
both sides unsigned with zero point 128: on x86 without VNNI onnxruntime's unsigned-by-signed kernel
saturates its 16-bit sums, the unsigned one is exact, and ARM computes either at the same speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgewise.exporter.graph.onnx_graph import CONTRIB, OnnxGraph
from edgewise.exporter.graph.onnx_weights import StoredTensor
from edgewise.exporter.graph.protocol import Role, Weight
from edgewise.exporter.quantize.blockwise import BlockQuantized
from edgewise.exporter.quantize.recipes import Recipe, WeightFormat
from edgewise.exporter.quantize.streaming import (
    ChannelQuantized,
    can_pack,
    quantize_tensors,
    read_rows,
)

INT8_ACTIVATIONS, FLOAT32_ACTIVATIONS = 4, 1  # accuracy levels of MatMulNBits
UNSIGNED_ZERO_POINT = 128
SMALLEST_ROW_MAXIMUM = 1e-12  # a row of zeros must not divide by zero


@dataclass(frozen=True)
class StoredBlocks:
    """A pack of block-quantized weights in the file, by the names of its initializers."""

    rows: int
    columns: int
    bits: int
    block_size: int
    place: StoredTensor
    codes: str
    scales: str
    zero_points: str  # empty where the zero point is the middle of the range
    offsets: str  # empty unless the blocks carry minimums


class LinearLowering:
    """Lowers ``linear`` and ``embedding`` into a graph by the formats of a recipe."""

    def __init__(self, graph: OnnxGraph, recipe: Recipe) -> None:
        """Begin with nothing written."""
        self._graph = graph
        self._recipe = recipe
        self._blocks: dict[str, StoredBlocks] = {}

    # Products

    def linear(self, x: str, weights: Sequence[Weight], biases: Sequence[Weight] | None) -> str:
        """Emit one product for the pack, or one a weight where formats differ; return its edge."""
        role = weights[0].role
        form = self._format(role)
        if not can_pack([weight.source for weight in weights], form):
            parts = [
                self.linear(x, [weight], [biases[index]] if biases else None)
                for index, weight in enumerate(weights)
            ]
            return self._graph.node("Concat", parts, f"{_pack_name(weights)}/joined", axis=-1)
        name = _pack_name(weights)
        bias = None
        if biases:
            joined = np.concatenate([bias.source.read() for bias in biases])
            bias = self._graph.constant(f"{name}.bias", joined)
        match form.kind:
            case "block" | "keep":
                return self._block_product(x, name, weights, form, bias)
            case "channel":
                product = self._channel_product(x, name, weights)
            case "float32" | "float16":
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
        name = f"{_pack_name(weights)}.{form}"
        if not self._graph.has_initializer(name):
            rows = sum(weight.shape[0] for weight in weights)
            dtype = np.dtype(np.float16 if half else np.float32)
            chunks = (
                chunk.astype(dtype, copy=False)
                for weight in weights
                for chunk in read_rows(weight.source)
            )
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

    def _block_product(
        self, x: str, name: str, weights: Sequence[Weight], form: WeightFormat, bias: str | None
    ) -> str:
        blocks = self._stored_blocks(weights, form)
        if blocks is None:
            product = self._float_product(x, name, weights, WeightFormat.parse("fp32"))
            return self._graph.node("Add", [product, bias], f"{name}/biased") if bias else product
        inputs = [x, blocks.codes, blocks.scales, blocks.zero_points, "", bias or ""]
        while inputs[-1] == "":
            inputs.pop()
        with_int8 = self._recipe.activations == "int8"
        product = self._graph.node(
            "MatMulNBits",
            inputs,
            f"{name}/product",
            domain=CONTRIB,
            K=blocks.columns,
            N=blocks.rows,
            bits=blocks.bits,
            block_size=blocks.block_size,
            accuracy_level=INT8_ACTIVATIONS if with_int8 else FLOAT32_ACTIVATIONS,
        )
        return self._add_offsets(x, product, name, blocks) if blocks.offsets else product

    def _add_offsets(self, x: str, product: str, name: str, blocks: StoredBlocks) -> str:
        """Add what MatMulNBits can not hold: w = scale (q - 8) + (minimum + 8 scale).

        The second term is the same for a whole block, so it meets only the block's sum of inputs.
        """
        size, count = blocks.block_size, blocks.columns // blocks.block_size
        sums = f"{x}/sums_of_{size}"
        if not self._graph.has(sums):
            shape = self._graph.constant(
                f"blocks_{count}_of_{size}", np.array([0, 0, count, size], np.int64)
            )
            axis = self._graph.constant("axis_-1", np.array([-1], np.int64))
            blocked = self._graph.node("Reshape", [x, shape], f"{x}/blocks_of_{size}")
            self._graph.node("ReduceSum", [blocked, axis], sums, keepdims=0)
        shift = self._graph.node(
            "FusedMatMul", [sums, blocks.offsets], f"{name}/shift", domain=CONTRIB, transB=1
        )
        return self._graph.node("Add", [product, shift], f"{name}/shifted")

    def _channel_product(self, x: str, name: str, weights: Sequence[Weight]) -> str:
        codes, row_scales = self._quantized_rows(x)
        matrix, scales = f"{name}.int8", f"{name}.scales"
        if not self._graph.has_initializer(matrix):
            quantized = quantize_tensors(
                [weight.source for weight in weights], WeightFormat.parse("int8")
            )
            if not isinstance(quantized, ChannelQuantized):
                raise TypeError(f"{name!r} did not quantize to channels")
            rows, columns = quantized.values.shape
            proto, _ = self._graph.weights.add_transposed(
                matrix, [_unsigned(quantized.values)], (columns, rows), np.dtype(np.uint8)
            )
            self._graph.initializer(proto)
            self._graph.constant(scales, quantized.scales)
        zero_point = self._graph.constant("zero_point_128", np.uint8(UNSIGNED_ZERO_POINT))
        one = self._graph.constant("scale_1", np.float32(1))
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
            smallest = g.constant("smallest_row_maximum", np.float32(SMALLEST_ROW_MAXIMUM))
            step = g.constant("one_127th", np.float32(1 / 127))
            one = g.constant("scale_1", np.float32(1))
            zero_point = g.constant("zero_point_128", np.uint8(UNSIGNED_ZERO_POINT))
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
        form = self._format(weight.role)
        name = weight.name.removesuffix(".weight")
        match form.kind:
            case "block" | "keep":
                blocks = self._stored_blocks([weight], form)
                if blocks is not None and not blocks.offsets:
                    return self._block_lookup(token_ids, name, blocks)
                form = WeightFormat.parse("fp32")
            case "channel":
                return self._channel_lookup(token_ids, name, weight)
            case "float32" | "float16":
                pass
        half = form.kind == "float16"
        self._float_matrix([weight], form)  # written here, so that a tied head finds it
        stored = f"{_pack_name([weight])}.{form}"
        rows = self._graph.node("Gather", [stored, token_ids], f"{name}/rows", axis=0)
        if not half:
            return rows
        return self._graph.node("Cast", [rows], f"{name}/rows_float32", to=TensorProto.FLOAT)

    def _block_lookup(self, token_ids: str, name: str, blocks: StoredBlocks) -> str:
        if blocks.columns % blocks.block_size:
            raise ValueError(
                f"{name!r} has rows of {blocks.columns}, no multiple of the block "
                f"{blocks.block_size}"
            )
        shape = (blocks.rows, blocks.place.nbytes // blocks.rows)
        flat = self._graph.initializer(
            self._graph.weights.view(
                f"{blocks.codes}.rows", blocks.place, shape, TensorProto.UINT8
            )
        )
        inputs = [flat, token_ids, blocks.scales]
        if blocks.zero_points:
            inputs.append(blocks.zero_points)
        return self._graph.node(
            "GatherBlockQuantized",
            inputs,
            f"{name}/rows",
            domain=CONTRIB,
            gather_axis=0,
            quantize_axis=1,
            block_size=blocks.block_size,
            bits=blocks.bits,
        )

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

    def _format(self, role: Role) -> WeightFormat:
        if role in ("norm", "bias"):
            raise ValueError(f"a weight of role {role!r} is no matrix")
        return self._recipe.format_for(role)

    def _stored_blocks(
        self, weights: Sequence[Weight], form: WeightFormat
    ) -> StoredBlocks | None:
        """Quantize a pack to blocks and write it, once; None if ``keep`` finds no blocks in it."""
        name = f"{_pack_name(weights)}.{form}"
        if name not in self._blocks:
            quantized = quantize_tensors([weight.source for weight in weights], form)
            if not isinstance(quantized, BlockQuantized):
                return None
            zero_points = offsets = ""
            if quantized.zero_points is not None:
                zero_points = self._graph.constant(f"{name}.zero_points", quantized.zero_points)
            if quantized.minimums is not None:
                middle = np.float32(1 << (quantized.bits - 1))
                offsets = self._graph.constant(
                    f"{name}.offsets", quantized.minimums + middle * quantized.scales
                )
            rows, columns = quantized.shape
            self._blocks[name] = StoredBlocks(
                rows=rows,
                columns=columns,
                bits=quantized.bits,
                block_size=quantized.block_size,
                place=self._graph.stored(name, quantized.packed),
                codes=name,
                scales=self._graph.constant(f"{name}.scales", quantized.scales),
                zero_points=zero_points,
                offsets=offsets,
            )
        return self._blocks[name]


def _unsigned(values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Shift int8 codes to uint8 with zero point 128: flip the top bit."""
    return values.view(np.uint8) ^ np.uint8(0x80)


def _pack_name(weights: Sequence[Weight]) -> str:
    """Name a pack after its first weight and how many more follow."""
    first = weights[0].name.removesuffix(".weight")
    return first if len(weights) == 1 else f"{first}+{len(weights) - 1}"

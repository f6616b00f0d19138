"""Block-quantized weights of the ONNX graph: products and look-ups.

A block's weight is scale * (code - zero point). What MatMulNBits can not hold is added apart: a
constant of a whole block meets only the sum of that block's inputs, so it costs one thirty-second
of a product. Two things need this:

- a block with a minimum (GGUF's Q4_1): scale * q + minimum = scale (q - 8) + (minimum + 8 scale);
- 8 bits with float32 activations. onnxruntime has no kernel for that pair and would dequantize the
  whole matrix at every token; two 4-bit products do it at full speed and exactly: code = 16 high +
  low, so scale (code - z) = 16 scale (high - 8) + scale (low - 8) + (136 - z) scale.

Rule: every array is written once, under a name that tells weight and format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgewise.exporter.graph.onnx_graph import CONTRIB, OnnxGraph
from edgewise.exporter.graph.onnx_weights import StoredTensor
from edgewise.exporter.graph.weight import Weight, pack_name
from edgewise.exporter.quantize.blockwise import BlockQuantized
from edgewise.exporter.quantize.packing import pack_codes
from edgewise.exporter.quantize.recipes import WeightFormat
from edgewise.exporter.quantize.streaming import layout_of, quantize_tensors

INT8_ACTIVATIONS, FLOAT32_ACTIVATIONS = 4, 1  # accuracy levels of MatMulNBits
MIDDLE = 8  # zero point that MatMulNBits implies for 4 bits
MIDDLE_OF_BOTH_HALVES = 16 * MIDDLE + MIDDLE


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
    offsets: str  # a constant to add in each block; empty for none


class BlockLowering:
    """Lowers packs of block-quantized weights into a graph."""

    def __init__(self, graph: OnnxGraph, *, int8_activations: bool) -> None:
        """Begin with nothing written."""
        self._graph = graph
        self._int8_activations = int8_activations
        self._stored: dict[str, StoredBlocks] = {}

    def product(
        self, x: str, weights: Sequence[Weight], form: WeightFormat, bias: str
    ) -> str | None:
        """Emit x times a pack; return its edge, or None if ``keep`` finds no blocks in it."""
        name = pack_name(weights)
        layout = layout_of([weight.source for weight in weights], form)
        if layout.kind != "block":
            return None
        if self._int8_activations or layout.bits == 4:
            blocks = self._stored_whole(weights, form)
            edge = self._multiply(x, blocks, f"{name}/product", bias)
            return self._add_offsets(x, edge, blocks, name)
        high, low = self._stored_halves(weights, form)
        edges = [
            self._multiply(x, high, f"{name}/product", bias),
            self._multiply(x, low, f"{name}/product_low", ""),
        ]
        edge = self._graph.node("Add", edges, f"{name}/both_halves")
        return self._add_offsets(x, edge, high, name)

    def lookup(self, token_ids: str, weight: Weight, form: WeightFormat) -> str | None:
        """Emit a look-up of rows; return its edge, or None if the table is not plain blocks."""
        layout = layout_of([weight.source], form)
        if layout.minimums or layout.block_size is None or layout.columns % layout.block_size:
            return None  # before anything is written that nothing would read
        blocks = self._stored_whole([weight], form)
        shape = (blocks.rows, blocks.place.nbytes // blocks.rows)
        flat = self._graph.initializer(
            self._graph.weights.view(f"{blocks.codes}.rows", blocks.place, shape, TensorProto.UINT8)
        )
        inputs = [flat, token_ids, blocks.scales]
        if blocks.zero_points:
            inputs.append(blocks.zero_points)
        return self._graph.node(
            "GatherBlockQuantized",
            inputs,
            f"{pack_name([weight])}/rows",
            domain=CONTRIB,
            gather_axis=0,
            quantize_axis=1,
            block_size=blocks.block_size,
            bits=blocks.bits,
        )

    def _stored_whole(self, weights: Sequence[Weight], form: WeightFormat) -> StoredBlocks:
        """Quantize a pack and write it, once."""
        name = f"{pack_name(weights)}.{form}"
        if name not in self._stored:
            quantized = _quantized(weights, form)
            offsets = None
            if quantized.minimums is not None:
                middle = np.float32(1 << (quantized.bits - 1))
                offsets = quantized.minimums + middle * quantized.scales
            self._stored[name] = self._write(
                name, quantized, quantized.packed, quantized.scales, offsets
            )
        return self._stored[name]

    def _stored_halves(
        self, weights: Sequence[Weight], form: WeightFormat
    ) -> tuple[StoredBlocks, StoredBlocks]:
        """Quantize a pack to 8 bits and write it as two of 4 bits, once."""
        name = f"{pack_name(weights)}.{form}"
        high, low = f"{name}.high", f"{name}.low"
        if high in self._stored:
            return self._stored[high], self._stored[low]
        quantized = _quantized(weights, form)
        zero_points = quantized.unpacked_zero_points().astype(np.float32)
        offsets = (np.float32(MIDDLE_OF_BOTH_HALVES) - zero_points) * quantized.scales
        codes = quantized.codes()
        for half, part, scales, shift in (
            (high, codes >> np.uint8(4), np.float32(16) * quantized.scales, offsets),
            (low, codes & np.uint8(15), quantized.scales, None),
        ):
            self._stored[half] = self._write(half, quantized, pack_codes(part, 4), scales, shift)
        return self._stored[high], self._stored[low]

    def _write(
        self,
        name: str,
        quantized: BlockQuantized,
        packed: NDArray[np.uint8],
        scales: NDArray[np.float32],
        offsets: NDArray[np.float32] | None,
    ) -> StoredBlocks:
        halved = packed is not quantized.packed
        zero_points = ""
        if quantized.zero_points is not None and not halved:
            zero_points = self._graph.constant(f"{name}.zero_points", quantized.zero_points)
        rows, columns = quantized.shape
        return StoredBlocks(
            rows=rows,
            columns=columns,
            bits=4 if halved else quantized.bits,
            block_size=quantized.block_size,
            place=self._graph.stored(name, packed),
            codes=name,
            scales=self._graph.constant(f"{name}.scales", scales),
            zero_points=zero_points,
            offsets="" if offsets is None else self._graph.constant(f"{name}.offsets", offsets),
        )

    def _multiply(self, x: str, blocks: StoredBlocks, output: str, bias: str) -> str:
        inputs = [x, blocks.codes, blocks.scales, blocks.zero_points, "", bias]
        while inputs[-1] == "":
            inputs.pop()
        return self._graph.node(
            "MatMulNBits",
            inputs,
            output,
            domain=CONTRIB,
            K=blocks.columns,
            N=blocks.rows,
            bits=blocks.bits,
            block_size=blocks.block_size,
            accuracy_level=INT8_ACTIVATIONS if self._int8_activations else FLOAT32_ACTIVATIONS,
        )

    def _add_offsets(self, x: str, product: str, blocks: StoredBlocks, name: str) -> str:
        if not blocks.offsets:
            return product
        sums = self._block_sums(x, blocks.columns, blocks.block_size)
        shift = self._graph.node(
            "FusedMatMul", [sums, blocks.offsets], f"{name}/shift", domain=CONTRIB, transB=1
        )
        return self._graph.node("Add", [product, shift], f"{name}/shifted")

    def _block_sums(self, x: str, columns: int, size: int) -> str:
        """Return the edge of each block's sum of inputs, [B, T, blocks]; once for each x."""
        sums = f"{x}/sums_of_{size}"
        if not self._graph.has(sums):
            count = -(-columns // size)
            padded = x
            if columns % size:
                pads = np.array([0, 0, 0, 0, 0, count * size - columns], np.int64)
                pad = self._graph.constant(f"pad_{columns}_to_{count * size}", pads)
                padded = self._graph.node("Pad", [x, pad], f"{x}/padded_to_{size}")
            shape = self._graph.constant(
                f"blocks_{count}_of_{size}", np.array([0, 0, count, size], np.int64)
            )
            axis = self._graph.constant("axis_-1", np.array([-1], np.int64))
            blocked = self._graph.node("Reshape", [padded, shape], f"{x}/blocks_of_{size}")
            self._graph.node("ReduceSum", [blocked, axis], sums, keepdims=0)
        return sums


def _quantized(weights: Sequence[Weight], form: WeightFormat) -> BlockQuantized:
    quantized = quantize_tensors([weight.stored for weight in weights], form)
    if not isinstance(quantized, BlockQuantized):
        raise TypeError(f"{pack_name(weights)!r} did not quantize to blocks as {form}")
    return quantized

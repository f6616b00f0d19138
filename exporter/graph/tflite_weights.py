"""Weights of a .tflite model: registered when a graph needs them, quantized as the file is written.

| format | tensor | quantization |
|---|---|---|
| fp32, fp16 | FLOAT32, FLOAT16 | none |
| int8 | INT8 | one scale a row, in the flatbuffer |
| int8 of a vocabulary, and all int8 for `TFLITE_RUNTIME` | INT8 | one scale a row, apart |
| int4-channel | INT4, low nibble first | one scale a row, in the flatbuffer |
| int4-block32, 64, 128 | INT4, low nibble first | float16 scales in a tensor of their own |

Rules: a weight streams through the quantizer in chunks of rows, straight into the file. Every graph
that uses it refers to the same bytes; so do a tied head and its embedding in one format. XNNPACK
refuses what the table does not list, and so does `check_format`, before anything is read. Scales in
the flatbuffer are read into memory once a graph, with as many zeros: those of a vocabulary stand
apart, where they stay pages of the file, and are multiplied for one row of logits a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.graph.tflite_file import SharedQuantization, TfliteFile
from edgewise.exporter.graph.tflite_graph import Edge, ElementType, TfliteGraph
from edgewise.exporter.graph.weight import Weight, pack_name
from edgewise.exporter.quantize.blockwise import BlockQuantized
from edgewise.exporter.quantize.channelwise import ChannelQuantized
from edgewise.exporter.quantize.packing import packed_length
from edgewise.exporter.quantize.recipes import ROLES, Recipe, WeightFormat
from edgewise.exporter.quantize.scale_search import Scales
from edgewise.exporter.quantize.streaming import WeightSource, quantized_rows, read_rows

ACCEPTED = "fp32, fp16, int8, int4-channel and int4-block32|64|128"
# Int4 blocks store float16, of which XNNPACK keeps the 8 leading bits.
SCALES: Scales = "positive bfloat16"
SIGN_BITS = np.uint8(0x88)  # flips codes of zero point 8 to two's complement, both nibbles


Release = Literal["ai-edge-litert 2.3", "tflite-runtime 2.14"]
"""The oldest release that is to run a model. The second is the last with wheels for 32-bit Arm: it
has no int4, and its int8 products take one scale for a whole matrix, so that this is 1 and the
scales of the rows are multiplied apart."""
LITERT: Release = "ai-edge-litert 2.3"
TFLITE_RUNTIME: Release = "tflite-runtime 2.14"
_VOCABULARY_ROLES = ("embedding", "head")


class TfliteFormatError(EdgewiseError):
    """A weight format for which TFLite has no operator that XNNPACK runs."""


def check_recipe(recipe: Recipe, release: Release = LITERT) -> None:
    """Refuse a recipe that can not be written for a release.

    Raises:
        TfliteFormatError: A role's format, or float32 activations for integer weights.
    """
    for role in ROLES:
        form = recipe.format_for(role)
        if form.kind == "keep" or not form.symmetric or (form.kind == "block" and form.bits != 4):
            raise TfliteFormatError(
                f"recipe {str(recipe)!r} stores {role} as {form}, which no TFLite operator that "
                f"XNNPACK runs takes; accepted are {ACCEPTED}"
            )
        if form.bits == 4 and release == TFLITE_RUNTIME:
            raise TfliteFormatError(
                f"recipe {str(recipe)!r} stores {role} as {form}, but {release}, the only runtime "
                "for 32-bit Arm, has no int4; use int8"
            )
    integer = [r for r in ROLES[1:] if recipe.format_for(r).kind in ("block", "channel")]
    if integer and recipe.activations == "float32":
        raise TfliteFormatError(
            f"recipe {str(recipe)!r} asks for float32 activations, but XNNPACK quantizes those of "
            f"{', '.join(integer)} itself; leave activations out, or use fp16 or fp32 weights"
        )


@dataclass(frozen=True)
class StoredWeight:
    """A pack of matrices as it stands in the file."""

    name: str
    rows: int
    columns: int
    form: WeightFormat
    quantization: SharedQuantization | None  # of channels
    scales: str  # of blocks, and of channels that are scaled apart: the array's name, or empty

    @property
    def is_scaled_apart(self) -> bool:
        """Whether a product's columns, or the rows of a look-up, have yet to be scaled."""
        return self.form.kind == "channel" and bool(self.scales)

    def channel_scales(self, graph: TfliteGraph, shape: tuple[int, ...]) -> Edge:
        """Refer to one scale a row, float32, in a graph."""
        return graph.stored(self.scales, shape, ElementType.FLOAT32)

    def edge(self, graph: TfliteGraph) -> Edge:
        """Refer to the matrix [rows, columns] in a graph; float16 is as it is stored."""
        shape = (self.rows, self.columns)
        match self.form.kind:
            case "float32":
                return graph.stored(self.name, shape, ElementType.FLOAT32)
            case "float16":
                return graph.stored(self.name, shape, ElementType.FLOAT16)
            case "channel":
                codes = ElementType.INT8 if self.form.bits == 8 else ElementType.INT4
                return graph.stored(self.name, shape, codes, self.quantization)
        size = self.form.block_size
        if size is None:
            raise TypeError(f"{self.name!r} has the format {self.form}")
        scales = graph.stored(self.scales, (self.rows, self.columns // size), ElementType.FLOAT16)
        details = schema.BlockwiseQuantizationT(scales=scales.index, zeroPoints=-1, blockSize=size)
        quantization = schema.QuantizationParametersT(
            detailsType=schema.QuantizationDetails.BlockwiseQuantization, details=details
        )
        return graph.stored(self.name, shape, ElementType.INT4, quantization)


class WeightStore:
    """Registers packs of weights with a model, each once for each format."""

    def __init__(self, model: TfliteFile, recipe: Recipe, release: Release = LITERT) -> None:
        """Begin with nothing stored.

        Args:
            model: The file that takes the arrays.
            recipe: The format of each role's weights.
            release: The oldest that is to run the model.

        Raises:
            TfliteFormatError: The recipe can not be written.
        """
        check_recipe(recipe, release)
        self._model = model
        self._recipe = recipe
        self._release = release
        self._stored: dict[str, StoredWeight] = {}

    def matrix(self, weights: Sequence[Weight]) -> StoredWeight:
        """Store matrices of one role, joined along their rows.

        Raises:
            TfliteFormatError: Rows are no whole number of blocks, or of bytes.
        """
        form = weights[0].format_in(self._recipe)
        name = f"{pack_name(weights)}.{form}"
        if name not in self._stored:
            self._stored[name] = self._register(name, weights, form)
        return self._stored[name]

    def vector(self, graph: TfliteGraph, weights: Sequence[Weight]) -> Edge:
        """Refer to vectors of float32, one behind the other."""
        length = sum(weight.shape[0] for weight in weights)
        name = f"{pack_name(weights)}.fp32"
        sources = [weight.source for weight in weights]
        self._model.add_array(name, 4 * length, partial(_write_numbers, sources, np.float32))
        return graph.stored(name, (length,), ElementType.FLOAT32)

    def _register(self, name: str, weights: Sequence[Weight], form: WeightFormat) -> StoredWeight:
        rows, columns = sum(weight.shape[0] for weight in weights), weights[0].shape[1]
        sources = [weight.stored for weight in weights]
        quantization, scales_name = None, ""
        match form.kind:
            case "float32":
                write = partial(_write_numbers, sources, np.float32)
                self._model.add_array(name, 4 * rows * columns, write)
            case "float16":
                write = partial(_write_numbers, sources, np.float16)
                self._model.add_array(name, 2 * rows * columns, write)
            case "channel":
                if form.bits == 4 and columns % 2:
                    raise TfliteFormatError(
                        f"{name!r} has rows of {columns} weights, two of which share a byte in "
                        f"{form}: an odd number can not be stored; choose int8"
                    )
                scales = np.zeros(rows, np.float32)
                apart = self._release == TFLITE_RUNTIME or (
                    form.bits == 8 and weights[0].role in _VOCABULARY_ROLES
                )
                quantization = SharedQuantization(np.ones(1, np.float32) if apart else scales)
                channels = partial(_write_channels, sources, form, scales)
                nbytes = rows * packed_length(columns, form.bits or 8)
                self._model.add_array(name, nbytes, channels)
                if apart:
                    scales_name = f"{name}.scales"
                    self._model.add_array(scales_name, scales.nbytes, scales.tofile)
            case _:
                scales_name = f"{name}.scales"
                self._register_blocks(name, scales_name, sources, form, (rows, columns))
        return StoredWeight(name, rows, columns, form, quantization, scales_name)

    def _register_blocks(
        self,
        name: str,
        scales_name: str,
        sources: Sequence[WeightSource],
        form: WeightFormat,
        shape: tuple[int, int],
    ) -> None:
        rows, columns = shape
        size = form.block_size or columns
        if columns % size:
            raise TfliteFormatError(
                f"{name!r} has rows of {columns} weights, which is no multiple of the block of "
                f"{size} as XNNPACK needs it; choose int8, or a block size that divides {columns}"
            )
        scales: list[NDArray[np.float16]] = []
        blocks = partial(_write_blocks, sources, form, scales)
        self._model.add_array(name, rows * columns // 2, blocks)
        self._model.add_array(
            scales_name, 2 * rows * columns // size, partial(_write_collected, scales)
        )


def _write_numbers(sources: Sequence[WeightSource], dtype: type[Any], stream: BinaryIO) -> None:
    for source in sources:
        for chunk in read_rows(source, dtype):
            np.ascontiguousarray(chunk).tofile(stream)


def _write_channels(
    sources: Sequence[WeightSource],
    form: WeightFormat,
    scales: NDArray[np.float32],
    stream: BinaryIO,
) -> None:
    start = 0
    for part in quantized_rows(sources, form):
        if not isinstance(part, ChannelQuantized):
            raise TypeError(f"{form} did not quantize to channels")
        part.packed.tofile(stream)
        scales[start : start + len(part.scales)] = part.scales
        start += len(part.scales)


def _write_blocks(
    sources: Sequence[WeightSource],
    form: WeightFormat,
    scales: list[NDArray[np.float16]],
    stream: BinaryIO,
) -> None:
    for part in quantized_rows(sources, form, scales_as=SCALES):
        if not isinstance(part, BlockQuantized):
            raise TypeError(f"{form} did not quantize to blocks")
        (part.packed ^ SIGN_BITS).tofile(stream)
        scales.append(part.scales.astype(np.float16))


def _write_collected(parts: list[NDArray[np.float16]], stream: BinaryIO) -> None:
    for part in parts:
        part.tofile(stream)
    parts.clear()

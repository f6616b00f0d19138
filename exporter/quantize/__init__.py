"""Weights in fewer bits: recipes by role, block and channel formats, lossless GGUF blocks.

Pure numpy. A format is text (`recipes`), a tensor streams through it in row chunks (`streaming`),
and what comes out has an exact inverse (`dequantize`).
"""

from edgewise.exporter.quantize.blockwise import BlockQuantized, quantize_blockwise
from edgewise.exporter.quantize.channelwise import ChannelQuantized, quantize_channelwise
from edgewise.exporter.quantize.errors import QuantizeError, RecipeError
from edgewise.exporter.quantize.recipes import Recipe, WeightFormat
from edgewise.exporter.quantize.streaming import (
    Layout,
    can_pack,
    layout_of,
    quantize_tensors,
    quantized_rows,
    read_rows,
)

__all__ = [
    "BlockQuantized",
    "ChannelQuantized",
    "Layout",
    "QuantizeError",
    "Recipe",
    "RecipeError",
    "WeightFormat",
    "can_pack",
    "layout_of",
    "quantize_blockwise",
    "quantize_channelwise",
    "quantize_tensors",
    "quantized_rows",
    "read_rows",
]

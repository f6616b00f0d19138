"""Weights in fewer bits: recipes by role, block and channel formats, lossless GGUF blocks.

Pure numpy. A format is text (`recipes`), a tensor streams through it in row chunks (`streaming`),
and what comes out has an exact inverse (`dequantize`).
"""

from edgewise.exporter.quantize.blockwise import BlockQuantized, quantize_blockwise
from edgewise.exporter.quantize.errors import QuantizeError, RecipeError
from edgewise.exporter.quantize.recipes import Recipe, WeightFormat

__all__ = [
    "BlockQuantized",
    "QuantizeError",
    "Recipe",
    "RecipeError",
    "WeightFormat",
    "quantize_blockwise",
]

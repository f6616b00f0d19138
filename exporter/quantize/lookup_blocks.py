"""Blocks that a look-up of rows can take.

onnxruntime's GatherBlockQuantized reads whole blocks only: a row has to be a multiple of them. A
product pads its rows instead (MatMulNBits), so the other roles take any block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from edgewise.exporter.quantize.recipes import BLOCK_SIZES, Recipe, WeightFormat


def lookup_format(form: WeightFormat, widths: Iterable[int]) -> WeightFormat:
    """Return the format nearest to another one whose rows can be looked up.

    Args:
        form: As the recipe has it.
        widths: Numbers of a row, of every matrix that is looked up.

    Returns:
        The same where its blocks divide all rows; else the largest smaller block that does; int8 by
        channel, which takes any row, where none does.
    """
    size, rows = form.block_size, tuple(widths)
    if size is None or not any(width % size for width in rows):
        return form
    for smaller in sorted(BLOCK_SIZES, reverse=True):
        if smaller < size and not any(width % smaller for width in rows):
            return replace(form, block_size=smaller)
    return WeightFormat("channel", 8)


def with_lookups(recipe: Recipe, widths: Iterable[int], *, tied_head: bool) -> Recipe:
    """Return the recipe with an embedding that can be looked up.

    A tied head in the embedding's format stays in it, for then both are the same bytes; not in int8
    by channel, of which products take a copy anyway.

    Args:
        recipe: As it was asked for.
        widths: Numbers of a row, of every embedding.
        tied_head: Whether the head reads the embedding's numbers.
    """
    embedding = lookup_format(recipe.embedding, widths)
    shares = tied_head and recipe.head == recipe.embedding and embedding.kind == "block"
    return replace(recipe, embedding=embedding, head=embedding if shares else recipe.head)

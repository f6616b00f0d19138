"""A checkpoint run through the numpy reference, over the numbers that a recipe's weights stand for.

`greedy` decodes step by step as slowly and plainly as can be: every step runs the whole sequence
again, without a cache. It also gives how far the best logit was ahead, so that a test can tell a
wrong token from a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_checkpoint import ArraySource

from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.protocol import GraphBuilder
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models import find_model
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.exporter.quantize.streaming import quantize_tensors

Logits = Callable[[Sequence[int]], NDArray[np.float32]]
"""Gives float32 [tokens, vocabulary] for token ids."""


@dataclass(frozen=True)
class StoredWeight(Weight):
    """A weight that reads as what a recipe stores of it."""

    plain: Weight
    recipe: Recipe

    def with_role(self, role: Any) -> Weight:
        return stored_weight(self.plain.with_role(role), self.recipe)


def stored_weight(plain: Weight, recipe: Recipe) -> Weight:
    """Quantize a weight by its role and back; norms, biases and plain float32 stay."""
    if plain.role in ("norm", "bias"):
        return plain
    form = recipe.format_for(plain.role)
    if form.kind == "float32":
        return StoredWeight(plain.name, plain.role, plain.source, plain, recipe)
    quantized = quantize_tensors([plain.source], form)
    if quantized is not None:
        array = quantized.dequantize()
    elif form.kind == "float16":
        array = plain.source.read().astype(np.float16).astype(np.float32)
    else:
        array = plain.source.read()
    return StoredWeight(plain.name, plain.role, ArraySource(array), plain, recipe)


def reference(checkpoint: Checkpoint, recipe: str = "fp32") -> Logits:
    """Return the reference's logits of every position, over a recipe's stored weights."""
    definition = find_model(checkpoint.config["model_type"])
    configuration = definition.configuration(checkpoint.config)
    specifications = definition.tensors(configuration)
    parsed = Recipe.parse(recipe)
    cache: dict[tuple[str, str], Weight] = {}

    def weight(name: str) -> Weight:
        role = specifications[name].role
        if (name, role) not in cache:
            plain = Weight(name, role, checkpoint.tensors[name])
            cache[name, role] = stored_weight(plain, parsed)
        return cache[name, role]

    def logits(token_ids: Sequence[int]) -> NDArray[np.float32]:
        builder: GraphBuilder[Any] = NumpyBuilder(np.asarray([token_ids], np.int64))
        definition.forward(builder, configuration, weight)
        return builder.logits[0]

    return logits


def greedy(
    logits: Logits, prompt_ids: Sequence[int], count: int, end_ids: Sequence[int] = ()
) -> tuple[list[int], float]:
    """Decode greedily.

    Returns:
        The ids, an end token included, and the smallest lead of a chosen logit over the second.
    """
    ids = list(prompt_ids)
    smallest_lead = np.inf
    while len(ids) < len(prompt_ids) + count:
        row = logits(ids)[-1]
        second, best = np.partition(row, -2)[-2:]
        smallest_lead = min(smallest_lead, float(best - second))
        ids.append(int(row.argmax()))
        if ids[-1] in end_ids:
            break
    return ids[len(prompt_ids) :], smallest_lead

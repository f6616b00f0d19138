"""Whether a model fits a board: weights, cache at the full context and runtime in what is usable.

Workflow: the pipeline calls `check_fit(plan)` before a weight is read; that makes a ModelSize of
the plan's shapes and a MemoryBudget of numbers. What does not fit is refused with the sum and the
nearest recipe, context or board variant that does.

Rules: sizes are bytes. A way out is named only if it works on that board.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.model_size import BLOCK_FORMAT, ModelSize, Shape, weights_bytes
from edgewise.exporter.plan import ExportPlan
from edgewise.firmware_profiles import Profile, RecipeChoice

MEBIBYTE = 1 << 20  # bytes
CONTEXT_STEP = 64  # tokens; suggested contexts are multiples of it
# What to try when a recipe is too large, from the most exact to the smallest.
LADDER = (
    "fp32",
    "int8-block32",
    "int8-block128",
    "int8",
    "int4-block32-asymmetric",
    "int4-block32",
    "int4-block64",
    "int4-block128",
)


class BudgetError(EdgewiseError):
    """A model that does not fit the board it is exported for.

    Attributes:
        budget: The sum that was refused.
    """

    def __init__(self, message: str, budget: MemoryBudget) -> None:
        super().__init__(message)
        self.budget = budget


@dataclass(frozen=True)
class MemoryBudget:
    """A model's memory on a board, in bytes.

    Attributes:
        weights_bytes: All weights.
        cache_bytes_per_token: Keys and values of one token.
        context: Tokens the cache is allocated for.
        overhead_bytes: The runtime beside weights and cache.
        usable_bytes: What the board leaves to a model.
        working_bytes: An encoder's activations, and what a decoder keeps of its source.
        working_tokens: Of what that encoder works on.
    """

    weights_bytes: int
    cache_bytes_per_token: int
    context: int
    overhead_bytes: int
    usable_bytes: int
    working_bytes: int = 0
    working_tokens: int = 0

    @property
    def cache_bytes(self) -> int:
        """The cache at the full context."""
        return self.cache_bytes_per_token * self.context

    @property
    def total_bytes(self) -> int:
        """Weights, cache, work and runtime together."""
        return self.weights_bytes + self.cache_bytes + self.working_bytes + self.overhead_bytes

    @property
    def fits(self) -> bool:
        """Whether the total is within what the board leaves to a model."""
        return self.total_bytes <= self.usable_bytes

    @property
    def largest_context(self) -> int:
        """Tokens for which the cache has room, down to a multiple of CONTEXT_STEP; 0 for none.

        0 also without a cache. Work is taken as it is: see `largest_context`.
        """
        if not self.cache_bytes_per_token:
            return 0
        room = self.usable_bytes - self.weights_bytes - self.working_bytes - self.overhead_bytes
        return max(room, 0) // self.cache_bytes_per_token // CONTEXT_STEP * CONTEXT_STEP

    def __str__(self) -> str:
        """Write the sum: "weights 96 MiB + cache of ... = 400 MiB of 300 usable"."""
        parts = [f"weights {_mebibytes(self.weights_bytes)}"]
        if self.cache_bytes_per_token:
            parts.append(f"cache of {self.context} tokens {_mebibytes(self.cache_bytes)}")
        if self.working_bytes:
            parts.append(f"work on {self.working_tokens} tokens {_mebibytes(self.working_bytes)}")
        parts.append(f"runtime {_mebibytes(self.overhead_bytes)}")
        return (
            f"{' + '.join(parts)} = {_mebibytes(self.total_bytes)}, "
            f"of {_mebibytes(self.usable_bytes)} usable"
        )


def _mebibytes(count: int) -> str:
    """Round up, so that a sum that is over never reads as equal."""
    return f"{math.ceil(count / MEBIBYTE)} MiB"


def memory_budget(
    profile: Profile,
    model: ModelSize,
    formats: Mapping[str, str],
    *,
    context: int,
    activations: str = "int8",
) -> MemoryBudget:
    """Add up a model's memory on a board.

    Args:
        profile: The board, with its runtime and RAM variant in force.
        model: Shapes and cache.
        formats: Format texts by role.
        context: Tokens the cache is allocated for.
        activations: Of the recipe.
    """
    return MemoryBudget(
        weights_bytes=weights_bytes(model, formats, profile.runtime, activations),
        cache_bytes_per_token=model.cache_bytes_per_token(model.cache_dtype),
        context=context,
        overhead_bytes=profile.runtime_choice(profile.runtime).overhead_bytes,
        usable_bytes=profile.memory.usable_bytes,
        working_bytes=model.working_bytes(context),
        working_tokens=model.working_tokens(context),
    )


def smaller_recipes(
    profile: Profile, model: ModelSize, below_bytes: int
) -> tuple[tuple[RecipeChoice, int], ...]:
    """List the recipes whose weights take less than ``below_bytes``, the largest first.

    Args:
        profile: The board; its own recipe is among the candidates.
        model: Shapes; block sizes that do not divide its rows are left out.
        below_bytes: Weights in bytes that a candidate must stay under.

    Returns:
        Recipes the board can run, each with its weights in bytes.
    """
    columns = {
        shape[1]
        for role in profile.recipe.formats
        for shape in model.shapes.get(role, ())
        if len(shape) == 2
    }
    candidates = [profile.recipe]
    for text in LADDER:
        match = BLOCK_FORMAT.fullmatch(text)
        if match is not None and any(count % int(match["size"]) for count in columns):
            continue
        activations = "float32" if text == "fp32" else "int8"
        candidates.append(RecipeChoice.uniform(text, activations=activations))
    sized = [
        (recipe, weights_bytes(model, recipe.formats, profile.runtime, recipe.activations))
        for recipe in candidates
        if not profile.problems_with(recipe, profile.runtime)
    ]
    smaller = [pair for pair in sized if pair[1] < below_bytes]
    return tuple(sorted(smaller, key=lambda pair: -pair[1]))


def _larger_variant(profile: Profile, budget: MemoryBudget) -> str | None:
    for variant in profile.memory.variants:
        if variant.usable_bytes >= budget.total_bytes:
            return profile.with_variant(variant.name).qualified_name
    return None


def largest_context(model: ModelSize, budget: MemoryBudget) -> int:
    """Return the tokens for which there is room, down to a multiple of CONTEXT_STEP; 0 for none.

    An encoder's work grows with the square of its text, so the contexts are tried.
    """
    if model.encoder is None:
        return budget.largest_context
    least = model.encoder.tokens or 0  # an image takes as many of the context
    for context in range(budget.context // CONTEXT_STEP * CONTEXT_STEP, least, -CONTEXT_STEP):
        working_bytes = model.working_bytes(context)
        if dataclasses.replace(budget, context=context, working_bytes=working_bytes).fits:
            return context
    return 0


def ways_out(profile: Profile, model: ModelSize, budget: MemoryBudget) -> list[str]:
    """Say what would fit instead of a budget that does not: clauses, at least one."""
    ways = []
    if context := largest_context(model, budget):
        ways.append(f"a context of {context} tokens fits with this recipe")
    recipes = smaller_recipes(profile, model, budget.weights_bytes)
    fitting = [
        recipe for recipe, size in recipes if dataclasses.replace(budget, weights_bytes=size).fits
    ]
    if fitting:
        ways.append(f"recipe {fitting[0]} fits with this context")
    elif recipes and not context:
        recipe, size = recipes[-1]
        context = largest_context(model, dataclasses.replace(budget, weights_bytes=size))
        if context:
            ways.append(f"recipe {recipe} fits with a context of {context} tokens")
    if variant := _larger_variant(profile, budget):
        ways.append(f"profile {variant} has room for it")
    return ways or ["no recipe makes it fit: choose a smaller model or a board with more memory"]


def refuse_unless_fits(
    name: str,
    profile: Profile,
    model: ModelSize,
    formats: Mapping[str, str],
    *,
    context: int,
    activations: str = "int8",
) -> MemoryBudget:
    """Return the budget of a model that fits a board.

    Args:
        name: What to call the model.
        profile: The board, with its runtime and RAM variant in force.
        model: Shapes and cache.
        formats: Format texts by role.
        context: Tokens the cache is allocated for.
        activations: Of the recipe.

    Raises:
        BudgetError: It does not fit; the message has the sum and what would fit.
    """
    budget = memory_budget(profile, model, formats, context=context, activations=activations)
    if budget.fits:
        return budget
    advice = "; ".join(ways_out(profile, model, budget))
    raise BudgetError(
        f"{name} does not fit {profile.qualified_name}: {budget}. {advice[0].upper()}{advice[1:]}.",
        budget,
    )


def model_size(plan: ExportPlan) -> ModelSize:
    """Gather the shapes of a plan's tensors by role."""
    shapes: dict[str, list[Shape]] = {}
    for tensor in plan.tensors.values():
        shapes.setdefault(tensor.role, []).append(tensor.stored_shape)
    return ModelSize(
        shapes=shapes,
        tied_head=plan.tied_head,
        layers=plan.cache.layers if plan.cache else 0,
        key_value_heads=plan.cache.key_value_heads if plan.cache else 0,
        head_size=plan.cache.head_size if plan.cache else 0,
        encoder=plan.encoder,
        keeps_source=plan.source_length is not None,
        cache_copies=plan.cache.copies if plan.cache else 1,
        cache_dtype=plan.cache.dtype if plan.cache else "float32",
    )


def planned_memory(plan: ExportPlan) -> MemoryBudget:
    """Return the budget of an export, whether it fits or not."""
    return memory_budget(
        plan.profile,
        model_size(plan),
        plan.formats,
        context=plan.context_length,
        activations=plan.activations,
    )


def check_fit(plan: ExportPlan) -> MemoryBudget:
    """Return the budget of an export, refusing what the board can not hold.

    Raises:
        BudgetError: Weights, cache and runtime exceed what the board leaves to a model.
    """
    return refuse_unless_fits(
        plan.model_id,
        plan.profile,
        model_size(plan),
        plan.formats,
        context=plan.context_length,
        activations=plan.activations,
    )

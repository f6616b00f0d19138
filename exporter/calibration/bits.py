"""Which matrices are worth more bits where a number of bytes is given for the weights.

Workflow: `room_in` says what a budget leaves. `formats_within` measures what each product costs the
model in the recipe's format (sensitivity.py), rounded as it will be: error feedback makes up for
more in the matrices of attention than in those of an MLP. From the largest cost a byte on, matrices
get a better format as long as there is room.

| format | better format |
|---|---|
| 4 bits, ONNX | 8 bits in blocks of the same size (of 32 in place of none) |
| 4 bits, TFLite | int8 by channel, the only one |
| int8 by channel, ONNX | 8 bits in blocks of 32, which takes its activations by block as well: outliers among them then cost their own block alone, and not the whole token |

Rules: matrices that are multiplied as one stay of one format. What the better format leaves of the
cost is taken for nothing.
"""  # noqa: E501 - a table has its rows in one line

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.budget import model_size
from edgewise.exporter.calibration.calibrate import SCALES, Progress
from edgewise.exporter.calibration.errors import CalibrationError
from edgewise.exporter.calibration.rounding import rounded_tokens
from edgewise.exporter.calibration.sensitivity import measure
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.numpy_operations import Array
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.model_size import matrix_bytes, weights_bytes
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.quantize.prepared import PreparedMatrix
from edgewise.exporter.quantize.recipes import WeightFormat
from edgewise.exporter.quantize.streaming import quantize_tensors

MEASURED_TOKENS = 64


@dataclass(frozen=True)
class Candidate:
    """Matrices that are multiplied as one, and what a better format would be to them.

    Attributes:
        weights: The matrices.
        form: The better format.
        extra_bytes: What it takes more.
    """

    weights: tuple[Weight, ...]
    form: WeightFormat
    extra_bytes: int


def formats_within(
    room: int,
    checkpoint: Checkpoint,
    plan: ExportPlan,
    window: NDArray[np.int64],
    progress: Progress,
) -> dict[str, PreparedMatrix]:
    """Choose the matrices that get a better format than their role has.

    Args:
        room: Bytes that the better formats may take more, as `room_in` gives them.
        checkpoint: The opened checkpoint.
        plan: What will be exported.
        window: int64 [tokens], which is measured on. Where the plan has codes of the matrices,
            rounded by a text, that was without this window.
        progress: Told of each product.

    Returns:
        The chosen ones by name, without codes.
    """
    engine = plan.profile.runtime
    candidates: list[Candidate] = []

    def size(form: WeightFormat, weight: Weight) -> int:
        rows, columns = weight.source.shape
        return matrix_bytes(str(form), rows, columns, engine, plan.activations)

    def altered(weights: Sequence[Weight], inputs: Array) -> Array | None:
        form = weights[0].format_in(plan.recipe)
        better = better_than(form, engine)
        if better is None:
            return None
        extra = sum(size(better, weight) - size(form, weight) for weight in weights)
        candidates.append(Candidate(tuple(weights), better, extra))
        seen = rounded_tokens(inputs) if form.kind == "channel" and engine == "onnx" else inputs
        products = []
        for weight in weights:
            codes = quantize_tensors([weight.stored], form, scales_as=SCALES[plan.runtime])
            if codes is None:
                raise TypeError(f"{weight.name} did not quantize as {form}")
            products.append(seen @ codes.dequantize().T)
        return np.concatenate(products, axis=1)

    progress("measure", 0, 1)
    shares = measure(
        checkpoint,
        plan,
        window[:MEASURED_TOKENS],
        altered,
        lambda done, total: progress("measure", done, total),
    )
    chosen = chosen_within(room, candidates, shares)
    return {
        weight.name: PreparedMatrix(weight.name, weight.source, candidate.form)
        for candidate in chosen
        for weight in candidate.weights
    }


def room_in(budget: int, plan: ExportPlan) -> int:
    """Return the bytes that a budget leaves to better formats.

    Args:
        budget: Bytes that the weights may take, as ``weights_bytes`` counts them.
        plan: What will be exported.

    Raises:
        CalibrationError: No format of the recipe has a better one, or the budget is less than the
            recipe takes anyway.
    """
    engine = plan.profile.runtime
    formats = {role: plan.recipe.format_for(role) for role in ("attention", "mlp")}
    if all(better_than(form, engine) is None for form in formats.values()):
        given = ", ".join(f"{role}={form}" for role, form in formats.items())
        raise CalibrationError(
            f"the recipe {str(plan.recipe)!r} has {given}, for which there are no better formats "
            "to spend a budget on; take int4 or, for onnx, int8, or leave --budget out"
        )
    least = weights_bytes(model_size(plan), plan.formats, engine, plan.activations)
    if budget < least:
        raise CalibrationError(
            f"the budget is {budget} bytes, but with recipe {str(plan.recipe)!r} as it stands the "
            f"weights take {least}; give more, or a recipe of fewer bits"
        )
    return budget - least


def chosen_within(
    room: int, candidates: Sequence[Candidate], shares: Sequence[float]
) -> list[Candidate]:
    """Take candidates from the largest share a byte on, as far as there is room for each.

    Args:
        room: Bytes.
        candidates: All that there are.
        shares: What each costs the model as it is.
    """
    worth = [share / one.extra_bytes for share, one in zip(shares, candidates, strict=True)]
    chosen = []
    for index in sorted(range(len(candidates)), key=lambda index: -worth[index]):
        if candidates[index].extra_bytes <= room:
            room -= candidates[index].extra_bytes
            chosen.append(candidates[index])
    return chosen


def better_than(form: WeightFormat, engine: str) -> WeightFormat | None:
    """Return the format that the module's table has for another one; None for none."""
    if form.bits == 4:
        if engine == "onnx":
            return WeightFormat("block", 8, form.block_size)
        return WeightFormat("channel", 8)
    return WeightFormat("block", 8, 32) if form.kind == "channel" and engine == "onnx" else None

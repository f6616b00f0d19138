"""Preparing the matrices of an export on a text.

Workflow: `calibrate` runs the reference over windows of the text, layer by layer. A matrix that is
to be quantized is rounded with error feedback on the inputs that reach it, which came through the
matrices before it in their quantized form; its codes go to files. The plan that it returns carries
the prepared matrices to whoever writes the graph.

Rules: the matrices that read one input, the statistics of that input and the states of the text are
in memory at a time. Matrices of attention and MLP are prepared; embedding and head are not, for a
row of theirs occurs rarely or never. Plain formats stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.calibration.builder import PREPARED_ROLES, CalibratingBuilder
from edgewise.exporter.calibration.errors import CalibrationError
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.numpy_operations import Array
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.plan import ExportPlan, RuntimeName
from edgewise.exporter.quantize.error_feedback import (
    InputStatistics,
    quantize_with_feedback,
    without_outliers,
)
from edgewise.exporter.quantize.prepared import PreparedMatrix
from edgewise.exporter.quantize.scale_search import Scales

Progress = Callable[[str, int, int], None]
SCALES: Mapping[RuntimeName, Scales] = MappingProxyType(
    {"onnx": "float32", "tflite": "positive bfloat16", "litertlm": "positive bfloat16"}
)


def calibrate(
    checkpoint: Checkpoint,
    plan: ExportPlan,
    windows: NDArray[np.int64],
    folder: Path,
    progress: Progress,
) -> ExportPlan:
    """Prepare the matrices of an export.

    Args:
        checkpoint: The opened checkpoint.
        plan: What will be exported.
        windows: int64 [windows, tokens], what the model is run on.
        folder: Where codes are kept until the export has ended.
        progress: Told of each matrix.

    Returns:
        The plan with its prepared matrices; formats that it had for some of them stay.

    Raises:
        CalibrationError: The model is no decoder, or its recipe quantizes no matrix.
        QuantizeError: Weights or activations that are not finite.
    """
    check_calibratable(plan)
    scales_as = SCALES[plan.runtime]
    wanted = matrices_of(plan)
    prepared: dict[str, PreparedMatrix] = {}
    done = 0

    def prepare(weights: Sequence[Weight], inputs: Array) -> list[Array]:
        nonlocal done
        matrices, feedback = [], None
        for weight in weights:
            numbers, form = weight.source.read(), weight.format_in(plan.recipe)
            done += 1
            if form.kind in ("block", "channel"):
                if feedback is None:
                    feedback = _feedback_of(inputs)
                codes = quantize_with_feedback(
                    numbers, feedback, form, scales_as=scales_as, name=weight.name
                )
                prepared[weight.name] = PreparedMatrix.stored(
                    weight.name, weight.source, form, codes, scales_as, folder
                )
                numbers = codes.dequantize()
            matrices.append(numbers)
            progress("calibrate", min(done, wanted), wanted)
        return matrices

    progress("calibrate", 0, wanted)
    plan.describe("forward", CalibratingBuilder(windows, prepare), checkpoint)
    progress("calibrate", wanted, wanted)
    return replace(plan, prepared=prepared)


def _feedback_of(inputs: Array) -> Array:
    """Return what rounding goes by; the statistics behind it are not kept."""
    statistics = InputStatistics(inputs.shape[1])
    statistics.add(without_outliers(inputs))
    return statistics.feedback()


def matrices_of(plan: ExportPlan) -> int:
    """Return how many of the checkpoint's matrices a calibration comes to."""
    return sum(tensor.role in PREPARED_ROLES for tensor in plan.tensors.values())


def check_calibratable(plan: ExportPlan) -> None:
    """Refuse what a text can do nothing for.

    Raises:
        CalibrationError: The model is no decoder, or its recipe quantizes no matrix.
    """
    if plan.is_traced or plan.family != "decoder":
        kind = "model whose graph Optimum traced" if plan.is_traced else plan.family
        raise CalibrationError(
            f"this is a {kind.replace('_', '-')}; calibration is for decoders that are built from "
            "their definition: leave --calibrate out"
        )
    formats = {role: plan.recipe.format_for(role) for role in sorted(PREPARED_ROLES)}
    if all(form.kind not in ("block", "channel") for form in formats.values()):
        given = ", ".join(f"{role}={form}" for role, form in formats.items())
        raise CalibrationError(
            f"the recipe {str(plan.recipe)!r} has {given}, of which calibration changes nothing; "
            "take a recipe such as int4 or int8, or leave --calibrate out"
        )

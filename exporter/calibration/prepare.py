"""All that a text does to an export.

Which channels change places with outliers, which matrices get more bits, and how all are rounded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgewise.exporter.calibration.bits import formats_within, room_in
from edgewise.exporter.calibration.calibrate import Progress, calibrate, check_calibratable
from edgewise.exporter.calibration.smoothing import smoothed
from edgewise.exporter.calibration.text import CalibrationFile, windows_of
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.plan import ExportPlan
from edgewise.runtime.bundle import Calibration

METHOD = "error feedback"


def prepare(
    checkpoint: Checkpoint,
    plan: ExportPlan,
    file: CalibrationFile,
    folder: Path,
    progress: Progress,
    *,
    budget: int | None = None,
) -> tuple[ExportPlan, Calibration]:
    """Prepare the matrices of an export.

    Args:
        checkpoint: The opened checkpoint.
        plan: What will be exported.
        file: The text.
        folder: Where codes are kept until the export has ended.
        progress: Told of each matrix.
        budget: Bytes that the weights may take, up to which matrices of 4 bits get 8; None to leave
            all as the recipe says.

    Returns:
        The plan with its prepared matrices, and what the manifest says of it.

    Raises:
        CalibrationError: The text is too short, the model no decoder, or recipe or budget leave
            nothing to do.
        QuantizeError: Weights or activations that are not finite.
    """
    check_calibratable(plan)
    room = None if budget is None else room_in(budget, plan)
    windows = windows_of(file, checkpoint.tokenizer, plan.configuration.context_length)
    smoothing = smoothed(checkpoint, plan, windows, progress)
    plan = replace(plan, factors=smoothing.factors)
    if room is not None:
        # Every other window is enough, and the one that is measured on not among them.
        rounded = calibrate(checkpoint, plan, windows[1::2], folder, progress)
        chosen = formats_within(room, checkpoint, rounded, windows[0], progress)
        plan = replace(plan, prepared=chosen)
    formats = {name: str(matrix.form) for name, matrix in plan.prepared.items()}
    prepared = calibrate(checkpoint, plan, windows, folder, progress)
    done = Calibration(
        METHOD,
        file.sha256,
        windows.size,
        len(prepared.prepared),
        formats,
        dict(smoothing.strengths),
    )
    return prepared, done

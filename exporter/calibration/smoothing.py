"""Moving outliers of activations into weights, where int8 products lose less by it.

Products that take their activations in int8 round each token in steps of its largest channel; where
a few channels are far larger than the others, these lose most of their digits. A factor for each
channel makes them more alike, and the weights take it back (SmoothQuant, arXiv 2211.10438). Here
factors also go where that paper has no place for them: into the rows of the matrix before, for the
last product of a gated MLP and for the output of attention (folding.py).

Workflow: `smoothed` runs the reference once over windows of a text. At each place it tries factors
|x|^a / |w|^(1 - a) for several strengths a. |w| is the largest magnitude in a channel's column; |x|
once that of the channel and once its root mean square, of tokens scaled to a largest magnitude of
1. The error of the products is measured with both sides rounded; the best factors are kept if they
pay.

Rules: a token's error counts relative to the square of its result, so that the few tokens with
enormous states do not decide alone. Factors are powers of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.calibration.builder import CalibratingBuilder
from edgewise.exporter.calibration.folding import Fold, folds_of
from edgewise.exporter.calibration.rounding import rounded_ranges, rounded_tokens
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.numpy_operations import Array
from edgewise.exporter.graph.scaling import Factors
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.quantize.channelwise import quantize_channelwise

STRENGTHS = (0.55, 0.7, 0.85, 1.0)
LEAST_GAIN = 0.1  # of the error: less is not worth weights that differ from the checkpoint's
MEASURED_TOKENS = 256
MEASURED_ROWS = 512  # of the matrices, drawn once: more tell strengths apart no better
LARGEST_EXPONENT = 12
_SMALLEST = 1e-12  # a token or a channel of zeros must not divide by zero

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Smoothing:
    """What was decided.

    Attributes:
        factors: By weight.
        strengths: By the first matrix behind each place that is smoothed.
    """

    factors: Mapping[str, Factors]
    strengths: Mapping[str, float]


def smoothed(
    checkpoint: Checkpoint, plan: ExportPlan, windows: NDArray[np.int64], progress: Progress
) -> Smoothing:
    """Find the factors of every place where they pay.

    Args:
        checkpoint: The opened checkpoint.
        plan: What will be exported.
        windows: int64 [windows, tokens], what the model is run on.
        progress: Told of each place.
    """
    folds = {
        fold.consumers[0].name: fold
        for fold in folds_of(plan, checkpoint)
        if all(takes_int8_tokens(plan, weight) for weight in fold.consumers)
    }
    factors: dict[str, Factors] = {}
    strengths: dict[str, float] = {}
    if not folds:
        return Smoothing(factors, strengths)
    done = 0

    def search(weights: Sequence[Weight], inputs: Array) -> list[Array]:
        nonlocal done
        matrices = [weight.source.read() for weight in weights]
        fold = folds.get(weights[0].name)
        if fold is not None:
            read = {weight.name: matrix for weight, matrix in zip(weights, matrices, strict=True)}
            joined = np.concatenate(
                [
                    read[one.name] if one.name in read else one.source.read()
                    for one in fold.consumers
                ]
            )
            step = max(1, len(inputs) // MEASURED_TOKENS)
            rounded = rounded_tokens if plan.profile.runtime == "onnx" else rounded_ranges
            strength, channels = best_factors(inputs[::step], joined, fold.channels, rounded)
            if strength:
                strengths[fold.name] = strength
                put_factors(factors, fold, channels)
            done += 1
            progress("smooth", done, len(folds))
        return matrices

    progress("smooth", 0, len(folds))
    plan.describe("forward", CalibratingBuilder(windows, search), checkpoint)
    return Smoothing(factors, strengths)


def takes_int8_tokens(plan: ExportPlan, weight: Weight) -> bool:
    """Tell whether a product rounds each token in steps of its own.

    Blocks do so in TFLite; onnxruntime rounds each block of a token by itself.
    """
    kind = weight.format_in(plan.recipe).kind
    return kind == "channel" or (kind == "block" and plan.profile.runtime == "tflite")


def best_factors(
    inputs: Array,
    matrix: Array,
    channels: NDArray[np.int64],
    rounded: Callable[[Array], Array],
) -> tuple[float, Array]:
    """Search the strength with the least error of a product.

    Args:
        inputs: float32 [tokens, K].
        matrix: float32 [N, K].
        channels: int64 [K], the channel of each input; those of one channel share a factor.
        rounded: What the product makes of its inputs.

    Returns:
        The strength, 0 where none pays, and the powers of two, float32 [channels], by which inputs
        are divided.
    """
    count = int(channels.max()) + 1
    sizes = np.abs(inputs) / np.maximum(np.abs(inputs).max(axis=1, keepdims=True), _SMALLEST)
    weights = _by_channel(np.abs(matrix).max(axis=0), channels, count)
    statistics = [
        _by_channel(sizes.max(axis=0), channels, count),
        _by_channel(np.sqrt(np.square(sizes).mean(axis=0)), channels, count),
    ]

    rows = matrix
    if len(matrix) > MEASURED_ROWS:
        drawn = np.random.default_rng(0).choice(len(matrix), MEASURED_ROWS, replace=False)
        rows = matrix[np.sort(drawn)]
    exact = inputs @ rows.T

    def error(factors: Array) -> float:
        scale = factors[channels]
        codes = quantize_channelwise(rows * scale, bits=8).dequantize()
        return relative_error(rounded(inputs / scale) @ codes.T, exact)

    best, chosen = np.ones(count, np.float32), 0.0
    plain = least = error(best)
    for activations, strength in product(statistics, STRENGTHS):
        factors = powers_of_two(activations, weights, strength)
        if (found := error(factors)) < least:
            least, best, chosen = found, factors, strength
    if least > (1 - LEAST_GAIN) * plain:
        return 0.0, np.ones(count, np.float32)
    return chosen, best


def _by_channel(values: Array, channels: NDArray[np.int64], count: int) -> Array:
    """Return the largest value among the inputs of each channel."""
    result: Array = np.zeros(count, np.float32)
    np.maximum.at(result, channels, values)
    return result


def powers_of_two(activations: Array, weights: Array, strength: float) -> Array:
    """Return the powers of two nearest to activations^strength / weights^(1 - strength).

    Args:
        activations: float32 [channels], how large they are.
        weights: float32 [channels], the largest magnitudes of the columns that read them.
        strength: From 0, which makes weights alike, to 1, which makes activations alike.

    Returns:
        float32 [channels], with a geometric mean of about 1; 1 for channels of zeros.
    """
    are_used = (activations > 0) & (weights > 0)
    exponents = np.zeros(len(activations), np.float32)
    exponents[are_used] = strength * np.log2(activations[are_used]) - (1 - strength) * np.log2(
        weights[are_used]
    )
    exponents[are_used] -= exponents[are_used].mean() if are_used.any() else 0
    whole = np.clip(np.rint(exponents), -LARGEST_EXPONENT, LARGEST_EXPONENT)
    factors: Array = np.exp2(whole).astype(np.float32)
    return factors


def relative_error(found: Array, exact: Array) -> float:
    """Return the mean over tokens of the squared difference over the token's square."""
    squares = np.maximum(np.square(exact).sum(axis=1), _SMALLEST)
    return float((np.square(found - exact).sum(axis=1) / squares).mean())


def put_factors(factors: dict[str, Factors], fold: Fold, channels: Array) -> None:
    """Divide what the channels come from and multiply what reads them.

    Args:
        factors: By weight; those of a place are added to what others put there.
        fold: The place.
        channels: Powers of two, float32 [channels].
    """
    for part in fold.producers:
        name, rows = part.weight.name, part.weight.shape[0]
        found = factors.get(name, Factors())
        divisor = np.ones(rows, np.float32)
        divisor[part.first : part.first + len(channels)] = channels
        whole = np.float32(1) if found.rows is None else found.rows
        factors[name] = replace(found, rows=(whole / divisor).astype(np.float32))
    for weight in fold.consumers:
        found = factors.get(weight.name, Factors())
        factors[weight.name] = replace(found, columns=channels[fold.channels])

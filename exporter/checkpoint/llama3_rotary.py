"""Finds llama 3's rotary scaling again from the frequency factors that GGUF stores instead of it.

The conversion to GGUF turns ``{"rope_type": "llama3", factor, low_freq_factor, high_freq_factor,
original_max_position_embeddings}`` into one factor per frequency (tensor ``rope_freqs.weight``).
The original context and the two frequency factors only act through their ratios, so any triple with
the same ratios is the same scaling; the one with ``low_freq_factor`` 1, as published, is given.
Rule: the answer must reproduce the stored factors, or the file is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

PUBLISHED = (8192.0, 4.0)  # original context and high_freq_factor of Llama 3.1 to 3.3
TOLERANCE = 1e-4  # relative; the factors are float32


def frequency_factors(
    theta: float, head_size: int, *, factor: float, context: float, low: float, high: float
) -> NDArray[np.float64]:
    """Compute by what each frequency is divided (transformers ``_compute_llama3_parameters``).

    Args:
        theta: Base of the rotary frequencies.
        head_size: Values of a head.
        factor: Divisor of the low frequencies.
        context: Original context length, tokens.
        low: ``low_freq_factor``.
        high: ``high_freq_factor``.

    Returns:
        float64 [head_size / 2].
    """
    smooth = np.clip((context / _wavelengths(theta, head_size) - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth))


def llama3_scaling(factors: NDArray[np.float32], theta: float) -> dict[str, Any] | None:
    """Find the scaling whose factors are ``factors``.

    Args:
        factors: float32 [head size / 2], the content of ``rope_freqs.weight``.
        theta: Base of the rotary frequencies.

    Returns:
        A ``rope_scaling``, or None if no scaling of this kind gives the factors.
    """
    factor = float(factors.max())
    if not (np.isfinite(factors).all() and factors.min() >= 1.0 and factor > 1.0):
        return None
    factor = round(factor, 4)
    head_size = 2 * factors.size
    for context, high in _candidates(factors.astype(np.float64), theta, factor):
        if not (context > 0 and high > 1 and math.isfinite(context) and math.isfinite(high)):
            continue
        given = frequency_factors(
            theta, head_size, factor=factor, context=context, low=1.0, high=high
        )
        if np.allclose(given, factors, rtol=TOLERANCE, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": high,
                "original_max_position_embeddings": round(context),
            }
    return None


def _wavelengths(theta: float, head_size: int) -> NDArray[np.float64]:
    exponents = np.arange(0, head_size, 2, dtype=np.float64) / head_size
    return np.asarray(2.0 * math.pi * theta**exponents)


def _candidates(
    factors: NDArray[np.float64], theta: float, factor: float
) -> Iterator[tuple[float, float]]:
    """Give (original context, high_freq_factor) to try: the published ones, then fitted ones."""
    yield PUBLISHED
    wavelengths = _wavelengths(theta, 2 * factors.size)
    between = (factors > 1.0 + TOLERANCE) & (factors < factor * (1.0 - TOLERANCE))
    smooth = (1.0 / factors[between] - 1.0 / factor) / (1.0 - 1.0 / factor)
    if between.sum() >= 2:
        # smooth = context / (high - 1) / wavelength - 1 / (high - 1), a line in 1 / wavelength
        slope, intercept = np.polyfit(1.0 / wavelengths[between], smooth, 1)
        context, high = -slope / intercept, 1.0 - 1.0 / intercept
        yield float(round(context)), float(round(high, 3))
        yield float(round(context)), float(high)

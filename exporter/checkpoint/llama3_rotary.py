"""Finds llama 3's rotary scaling again from the frequency factors that GGUF stores instead of it.

The conversion to GGUF turns ``{"rope_type": "llama3", factor, low_freq_factor, high_freq_factor,
original_max_position_embeddings}`` into one factor per frequency (tensor ``rope_freqs.weight``).
The original context and the two frequency factors act only through their ratios, so any triple with
the same ratios is the same scaling; the one with ``low_freq_factor`` about 1, as published, is
given. Rule: the answer must reproduce the stored factors, or the file is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

PUBLISHED = (8192, 1.0, 4.0)  # context, low_freq_factor, high_freq_factor of Llama 3.1 to 3.3
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
    for context, low, high in _candidates(factors.astype(np.float64), theta, factor):
        given = frequency_factors(
            theta, head_size, factor=factor, context=context, low=low, high=high
        )
        if np.allclose(given, factors, rtol=TOLERANCE, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            }
    return None


def _wavelengths(theta: float, head_size: int) -> NDArray[np.float64]:
    exponents = np.arange(0, head_size, 2, dtype=np.float64) / head_size
    return np.asarray(2.0 * math.pi * theta**exponents)


def _candidates(
    factors: NDArray[np.float64], theta: float, factor: float
) -> Iterator[tuple[int, float, float]]:
    """Give (context, low, high) to try: what is published, then what is fitted."""
    yield PUBLISHED
    between = (factors > 1.0 + TOLERANCE) & (factors < factor * (1.0 - TOLERANCE))
    if between.sum() < 2:
        return
    wavelengths = _wavelengths(theta, 2 * factors.size)[between]
    smooth = (1.0 / factors[between] - 1.0 / factor) / (1.0 - 1.0 / factor)
    # With low = 1: smooth = context / (high - 1) / wavelength - 1 / (high - 1), a line.
    slope, intercept = np.polyfit(1.0 / wavelengths, smooth, 1)
    if not (slope > 0 > intercept and slope / -intercept >= 1):
        return
    context, high = float(-slope / intercept), float(1.0 - 1.0 / intercept)
    yield round(context), 1.0, round(high, 3)
    # The context is a whole number of tokens; the factors then carry its fraction.
    low = round(context) / context
    yield round(context), low, high * low

"""What products in int8 make of the tokens that enter them."""

from __future__ import annotations

import numpy as np

from edgewise.exporter.graph.numpy_operations import Array

SIGNED_STEPS, UNSIGNED_STEPS = 127, 255  # of a token's largest magnitude, and of its range
_SMALLEST = np.float32(1e-12)  # a token of zeros must not divide by zero


def rounded_tokens(inputs: Array) -> Array:
    """Return what onnxruntime's products make of inputs: each token in steps of its own."""
    largest = np.abs(inputs).max(axis=1, keepdims=True)
    step = np.maximum(largest, _SMALLEST) / np.float32(SIGNED_STEPS)
    rounded: Array = np.rint(inputs / step) * step
    return rounded


def rounded_ranges(inputs: Array) -> Array:
    """Return what XNNPACK's products make of inputs: steps of each token's range, zero a code."""
    low = np.minimum(inputs.min(axis=1, keepdims=True), 0)
    high = np.maximum(inputs.max(axis=1, keepdims=True), 0)
    step = np.maximum(high - low, _SMALLEST) / np.float32(UNSIGNED_STEPS)
    zero_point = np.rint(-low / step)
    codes = np.clip(np.rint(inputs / step) + zero_point, 0, UNSIGNED_STEPS)
    rounded: Array = (codes - zero_point) * step
    return rounded

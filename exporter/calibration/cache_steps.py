"""In which steps a layer's keys and values are rounded where they are kept with 8 bits.

Workflow: `with_cache_scales` runs the reference over windows of a text, the one that the weights
are calibrated on or else one that comes with this package, and notes how large each feature of each
head becomes. The largest magnitude, with some room above it, is 127 steps.

Rules: the steps are fixed, for a code that was written is never written again. Two features of a
key that are rotated together have the same steps, of their common length: at another position
either can be as large as that. What is larger than any that was seen is clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.calibration.calibrate import Progress
from edgewise.exporter.calibration.text import WINDOW, CalibrationFile, encoded, windows_of
from edgewise.exporter.checkpoint import Checkpoint, TokenizerFiles
from edgewise.exporter.graph.attention import Attention, CacheScales
from edgewise.exporter.graph.numpy_builder import NumpyBuilder, NumpyCache
from edgewise.exporter.graph.numpy_operations import Array
from edgewise.exporter.plan import ExportPlan

TEXT = Path(__file__).parent / "cache_text.txt"
WINDOWS = 4  # of a text
LARGEST_CODE = 127
HEADROOM = 1.1  # times the largest that was seen, for texts of another kind
LEAST_STEP = 1e-6  # a feature that is always zero must not divide by zero


class _LastLayer(NumpyCache):
    """Keeps nothing of a layer once the next one is computed."""

    def append(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Return what is given."""
        del layer
        self.keys, self.values = keys, values
        return keys, values


class _Magnitudes(NumpyBuilder):
    """Computes as the reference does, and notes the largest keys and values."""

    def __init__(self, token_ids: NDArray[np.int64], progress: Callable[[int], None]) -> None:
        """Begin a pass over windows, int64 [windows, tokens]; layers that are done are told."""
        self._last = _LastLayer()
        super().__init__(token_ids, self._last, last_positions=1)
        self._progress = progress
        self.scales: dict[int, CacheScales] = {}

    def attention(self, query_key_value: Array, attention: Attention) -> Array:
        """See ``GraphBuilder``."""
        result = super().attention(query_key_value, attention)
        rotary = attention.rotary
        pairs = 0 if rotary is None else len(rotary.inverse_frequencies)
        self.scales[attention.layer] = CacheScales(
            _steps(_lengths_of_pairs(self._last.keys, pairs)), _steps(self._last.values)
        )
        self._progress(len(self.scales))
        return result


def with_cache_scales(
    checkpoint: Checkpoint, plan: ExportPlan, file: CalibrationFile | None, progress: Progress
) -> ExportPlan:
    """Settle the steps of a plan's int8 cache.

    Args:
        checkpoint: The opened checkpoint.
        plan: What will be exported, a decoder.
        file: The text; None for the one of this package.
        progress: Told of each layer.

    Returns:
        The plan with the steps of every layer.

    Raises:
        CalibrationError: The text is too short.
    """
    layers = plan.cache.layers if plan.cache is not None else 0
    if file is None:
        windows = built_in_windows(checkpoint.tokenizer, plan)
    else:
        positions = plan.configuration.context_length
        windows = windows_of(file, checkpoint.tokenizer, positions)[:WINDOWS]
    progress("cache", 0, layers)
    builder = _Magnitudes(windows, lambda done: progress("cache", done, layers))
    plan.describe("forward", builder, checkpoint)
    return replace(plan, cache_scales=builder.scales)


def built_in_windows(tokenizer: TokenizerFiles, plan: ExportPlan) -> NDArray[np.int64]:
    """Encode the text of this package.

    Args:
        tokenizer: The checkpoint's; one that knows little of the text still gives ids.
        plan: What will be exported.

    Returns:
        int64 [WINDOWS, tokens].
    """
    length = min(WINDOW, plan.context_length)
    [ids] = encoded([TEXT.read_text(encoding="utf-8")], tokenizer)
    rows = np.resize(np.asarray(ids or [0], np.int64), (WINDOWS, length))
    if tokenizer.add_beginning_token and tokenizer.beginning_token_id is not None:
        rows[:, 0] = tokenizer.beginning_token_id
    return rows % plan.configuration.vocabulary_size


def _lengths_of_pairs(keys: Array, pairs: int) -> Array:
    """Return keys [..., head size] with both features of each rotated pair as long as the pair."""
    first, second, rest = np.split(keys, [pairs, 2 * pairs], axis=-1)
    length = np.hypot(first, second)
    return np.concatenate([length, length, rest], axis=-1)


def _steps(numbers: Array) -> NDArray[np.float32]:
    """Return the steps of each feature of each head: [B, heads, T, size] gives [heads, size]."""
    largest = np.abs(numbers).max(axis=(0, 2))
    steps: NDArray[np.float32] = largest * np.float32(HEADROOM / LARGEST_CODE)
    return np.maximum(steps, np.float32(LEAST_STEP))

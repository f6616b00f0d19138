"""Choosing the next token from a row of logits.

Workflow: one `Sampler` a generation; `sample` takes the logits after each step and remembers the
token it chose, which the repetition penalty needs.

Rules: the steps and their order are those of transformers' ``generate`` (llama.cpp applies the
temperature last): repetition penalty over prompt and answer, temperature, top-k, top-p, min-p.
- Repetition penalty (Keskar et al. 2019): the logit of a token seen before is divided by the
  penalty when positive and multiplied by it when negative, once, however often it was seen.
- Top-k keeps every token whose logit is at least the k-th largest, ties included.
- Top-p keeps the fewest most probable tokens whose mass, among what top-k left, reaches p; of equal
  logits the lower token id comes first.
- Min-p keeps tokens at least min_p times as probable as the most probable one.
The most probable token is never removed. Greedy decoding is one argmax (the lowest id of equals);
the vocabulary is sorted only as deep as a flat distribution forces top-p to go. Probabilities are
float64 and relative to the largest logit, so nothing overflows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.options import SamplingSettings

Floating = TypeVar("Floating", np.float32, np.float64)

_SMALLEST_TEMPERATURE = 1e-9  # below it only equals of the largest logit have any mass anyway
_FIRST_SORTED = 256  # tokens that top-p sorts at first; times 8 while their mass is too small


class LogitsError(EdgewiseError):
    """The model gave logits that are no numbers."""


class Sampler:
    """Chooses tokens for one generation."""

    def __init__(
        self,
        settings: SamplingSettings,
        prompt_ids: Iterable[int] = (),
        *,
        sampled_vocabulary: int | None = None,
    ) -> None:
        """Seed the generator.

        Args:
            settings: What to apply; see `GenerationOptions.sampling`.
            prompt_ids: The prompt's token ids, for the repetition penalty.
            sampled_vocabulary: Ids from here on are padding rows, never chosen; None: there are
                none.
        """
        self._vocabulary = sampled_vocabulary
        self._settings = settings
        self._penalizes = settings.repetition_penalty != 1.0
        self._greedy = settings.temperature == 0.0
        self._random = np.random.Generator(np.random.PCG64(settings.seed))
        self._seen: set[int] = set()
        if self._penalizes:
            self._seen.update(
                token
                for token in prompt_ids
                if sampled_vocabulary is None or token < sampled_vocabulary
            )
        self._seen_ids = np.fromiter(self._seen, np.int64, len(self._seen))

    def sample(self, logits: NDArray[np.float32]) -> int:
        """Choose the next token.

        Args:
            logits: [vocabulary], float32; unchanged.

        Returns:
            The token's id.

        Raises:
            LogitsError: The largest logit is NaN or infinite.
        """
        logits = logits[: self._vocabulary]
        if self._penalizes:
            logits = penalize(logits, self._seen_ids, self._settings.repetition_penalty)
        if self._greedy:
            token = int(logits.argmax())
            check_largest(float(logits[token]))
        else:
            ids, weights = filtered_weights(logits, self._settings)
            bounds = np.cumsum(weights)
            chosen = np.searchsorted(bounds, self._random.random() * bounds[-1], side="right")
            token = int(ids[min(int(chosen), len(ids) - 1)])
        if self._penalizes and token not in self._seen:
            self._seen.add(token)
            self._seen_ids = np.append(self._seen_ids, token)
        return token


def penalize(
    logits: NDArray[Floating], seen_ids: NDArray[np.int64], penalty: float
) -> NDArray[Floating]:
    """Return a copy of the logits [vocabulary] with the repetition penalty applied once per id."""
    result = logits.copy()
    values = result[seen_ids]
    result[seen_ids] = np.where(values < 0, values * penalty, values / penalty)
    return result


def filtered_weights(
    logits: NDArray[np.float32], settings: SamplingSettings
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Apply temperature, top-k, top-p and min-p.

    Args:
        logits: [vocabulary], float32, penalized already.
        settings: With a temperature above 0.

    Returns:
        The ids that are left, and their probabilities relative to the most probable token's
        (float64, so 1.0 is the largest), both of the same length, in no particular order.

    Raises:
        LogitsError: The largest logit is NaN or infinite.
    """
    largest = float(logits[logits.argmax()])  # argmax finds a NaN first
    check_largest(largest)
    temperature = max(settings.temperature, _SMALLEST_TEMPERATURE)
    vocabulary = len(logits)
    if 0 < settings.top_k < vocabulary:
        ids = _at_least_the_largest(logits, settings.top_k)
    elif settings.top_p == 1.0 and settings.min_p > 0.0:
        # A little too many: the exact comparison below is that of probabilities.
        lowest = largest + temperature * math.log(settings.min_p)
        ids = np.flatnonzero(logits >= lowest - 1e-3 * abs(lowest) - 1e-3)
    else:
        ids = np.arange(vocabulary)
    values = logits if len(ids) == vocabulary else logits[ids]
    weights = np.exp((values.astype(np.float64) - largest) / temperature)
    if settings.top_p < 1.0:
        kept = _nucleus(values, weights, settings.top_p)
        ids, weights = ids[kept], weights[kept]
    if settings.min_p > 0.0:
        probable = weights >= settings.min_p
        ids, weights = ids[probable], weights[probable]
    return ids, weights


def _at_least_the_largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the ascending indices of the ``count`` largest values and of ties with the last."""
    position = len(values) - count
    return np.flatnonzero(values >= np.partition(values, position)[position])


def _nucleus(
    values: NDArray[np.float32], weights: NDArray[np.float64], top_p: float
) -> NDArray[np.int64]:
    """Return the indices of the fewest largest values whose weights reach ``top_p`` of the sum."""
    wanted = top_p * float(weights.sum())
    count = _FIRST_SORTED
    while True:
        if count < len(values):
            candidates = _at_least_the_largest(values, count)
        else:
            candidates = np.arange(len(values))
        order = candidates[np.argsort(-values[candidates], kind="stable")]
        bounds = np.cumsum(weights[order])
        if bounds[-1] >= wanted or len(order) == len(values):
            return order[: int(np.searchsorted(bounds, wanted, side="left")) + 1]
        count *= 8


def check_largest(largest: float) -> None:
    """Refuse logits that are no numbers.

    Raises:
        LogitsError: The largest logit is NaN or infinite.
    """
    if not math.isfinite(largest):
        raise LogitsError(
            f"the model computed {largest} as its largest logit; its weights are damaged or their"
            " format is too coarse: verify the bundle's hashes, or export with another recipe"
        )

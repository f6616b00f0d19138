"""Choosing the next token from a row of logits.

Workflow: one `Sampler` a generation; `sample` takes the logits after each step and remembers the
token it chose, which the penalties need; `note` tells it a token that came without being chosen.

Rules: the steps and their order are those of transformers' ``generate`` (llama.cpp applies the
temperature last): bias and penalties (penalties.py), temperature, top-k, top-p, min-p, typical-p.
- Top-k keeps every token whose logit is at least the k-th largest, ties included.
- Top-p keeps the fewest most probable tokens whose mass, among what top-k left, reaches p; of equal
  logits the lower token id comes first.
- Min-p keeps tokens at least min_p times as probable as the most probable one.
- Typical-p (Meister et al. 2023) keeps the fewest tokens, among what is left, whose surprise is
  nearest to the expected one and whose mass reaches p, ties with the last included.
All but typical-p keep the most probable token. Greedy decoding is one argmax (the lowest id of
equals). Nothing is copied while no logit is changed; the vocabulary is sorted only as deep as a
flat distribution forces top-p and typical-p to go. Probabilities are float64 and relative to the
largest logit, so nothing overflows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.engine_error import EngineError
from edgewise.runtime.options import SamplingSettings
from edgewise.runtime.penalties import Penalties

Floating = TypeVar("Floating", np.float32, np.float64)

_SMALLEST_TEMPERATURE = 1e-9  # below it only equals of the largest logit have any mass anyway
_FIRST_SORTED = 256  # tokens that top-p sorts at first; times 8 while their mass is too small


class LogitsError(EngineError):
    """The model gave logits that are no numbers."""


class Sampler:
    """Chooses tokens for one generation."""

    def __init__(
        self,
        settings: SamplingSettings,
        prompt_ids: Sequence[int] = (),
        *,
        sampled_vocabulary: int | None = None,
        bytes_of: Callable[[int], bytes] | None = None,
    ) -> None:
        """Seed the generator.

        Args:
            settings: What to apply; see `GenerationOptions.sampling`.
            prompt_ids: The prompt's token ids, for the penalties that count them.
            sampled_vocabulary: Ids from here on are padding rows, never chosen; None: there are
                none.
            bytes_of: Gives the bytes that a token adds to a text, for the breakers of DRY; None:
                no token holds one.
        """
        self._vocabulary = sampled_vocabulary
        self._settings = settings
        self._greedy = settings.temperature == 0.0
        self._seed = settings.seed
        penalties = Penalties(
            settings, prompt_ids, sampled_vocabulary=sampled_vocabulary, bytes_of=bytes_of
        )
        self._penalties = None if penalties.change_nothing else penalties

    @cached_property
    def _random(self) -> np.random.Generator:
        # Its modules take a while to load, and whoever is greedy needs none.
        return np.random.Generator(np.random.PCG64(self._seed))

    def sample(self, logits: NDArray[np.float32]) -> int:
        """Choose the next token.

        Args:
            logits: [vocabulary], float32; unchanged.

        Returns:
            The token's id.

        Raises:
            LogitsError: The largest logit is NaN or infinite.
            OptionsError: A token with a bias is outside the vocabulary.
        """
        logits = logits[: self._vocabulary]
        if self._penalties is not None:
            logits = self._penalties.apply(logits)
        if self._greedy:
            token = int(logits.argmax())
            check_largest(float(logits[token]))
        else:
            ids, weights = filtered_weights(logits, self._settings)
            bounds = np.cumsum(weights)
            chosen = np.searchsorted(bounds, self._random.random() * bounds[-1], side="right")
            token = int(ids[min(int(chosen), len(ids) - 1)])
        self.note(token)
        return token

    def note(self, token: int) -> None:
        """Note a token of the answer; `sample` does so itself for what it chooses."""
        if self._penalties is not None:
            self._penalties.note(token)


def filtered_weights(
    logits: NDArray[np.float32], settings: SamplingSettings
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Apply temperature, top-k, top-p, min-p and typical-p.

    Args:
        logits: [vocabulary], float32, penalized already.
        settings: With a temperature above 0.

    Returns:
        The ids that are left, and their probabilities relative to the most probable token's
        (float64, so 1.0 is the largest there can be), of the same length, in no particular order.

    Raises:
        LogitsError: The largest logit is NaN or infinite.
    """
    largest = float(logits[logits.argmax()])  # argmax finds a NaN first
    check_largest(largest)
    temperature = max(settings.temperature, _SMALLEST_TEMPERATURE)
    vocabulary = len(logits)
    if 0 < settings.top_k < vocabulary:
        ids = at_least_the_largest(logits, settings.top_k)
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
    if settings.typical_p < 1.0:
        typical = _typical(weights, settings.typical_p)
        ids, weights = ids[typical], weights[typical]
    return ids, weights


def _nucleus(
    values: NDArray[Floating], weights: NDArray[np.float64], top_p: float
) -> NDArray[np.int64]:
    """Return the indices of the fewest largest values whose weights reach ``top_p`` of the sum."""
    wanted = top_p * float(weights.sum())
    count = _FIRST_SORTED
    while True:
        if count < len(values):
            candidates = at_least_the_largest(values, count)
        else:
            candidates = np.arange(len(values))
        order = candidates[np.argsort(-values[candidates], kind="stable")]
        bounds = np.cumsum(weights[order])
        if bounds[-1] >= wanted or len(order) == len(values):
            return order[: int(np.searchsorted(bounds, wanted, side="left")) + 1]
        count *= 8


def _typical(weights: NDArray[np.float64], mass: float) -> NDArray[np.int64]:
    """Return the indices of the tokens whose surprise is nearest to the expected one."""
    possible = np.flatnonzero(weights)
    probabilities = weights[possible] / weights.sum()
    surprises = -np.log(probabilities)
    nearness = -np.abs(surprises - float(probabilities @ surprises))
    least = nearness[_nucleus(nearness, probabilities, mass)[-1]]
    kept: NDArray[np.int64] = possible[nearness >= least]
    return kept


def at_least_the_largest(values: NDArray[Floating], count: int) -> NDArray[np.int64]:
    """Return the ascending indices of the ``count`` largest values and of ties with the last.

    Args:
        values: [length], without NaN.
        count: 1 to the length.
    """
    position = len(values) - count
    return np.flatnonzero(values >= np.partition(values, position)[position])


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

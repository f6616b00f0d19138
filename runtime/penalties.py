"""What is added to logits and taken from them before a token is chosen, in this order.

- Logit bias: a number of the caller's own for some tokens, added.
- Repetition penalty (Keskar et al. 2019) over prompt and answer: the logit of a token seen before
  is divided by the penalty when positive and multiplied by it when negative, once, however often it
  was seen.
- Frequency and presence penalty (OpenAI's definition) over the answer: a token that it has c times
  loses ``c * frequency_penalty + presence_penalty``.
- DRY over prompt and answer: see dry.py.

Rules: the caller's logits stay as they are; one copy is made, into memory that is kept, and none
where nothing is to be done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.dry import RepeatedSequences
from edgewise.runtime.option_checks import OptionsError
from edgewise.runtime.options import SamplingSettings

Floating = TypeVar("Floating", np.float32, np.float64)


class TokenCounts:
    """Tokens and how often each came, as arrays that grow."""

    def __init__(self) -> None:
        """Begin with none."""
        self._places: dict[int, int] = {}
        self._ids = np.empty(64, np.int64)
        self._counts = np.zeros(64, np.float32)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Each token that came, once, in the order of their first coming."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often each of `ids` came."""
        return self._counts[: len(self._places)]

    def add(self, token: int) -> None:
        """Count a token."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[place] = token
        self._counts[place] += 1


class Penalties:
    """Changes logits for one generation."""

    def __init__(
        self,
        settings: SamplingSettings,
        prompt_ids: Sequence[int],
        *,
        sampled_vocabulary: int | None,
        bytes_of: Callable[[int], bytes] | None,
    ) -> None:
        """Read the prompt, as far as something depends on it.

        Args:
            settings: What to apply.
            prompt_ids: The prompt's token ids; those outside the vocabulary are images.
            sampled_vocabulary: Ids from here on are padding rows or images; None: there are none.
            bytes_of: Gives the bytes that a token adds to a text; see `RepeatedSequences`.
        """
        self._settings = settings
        self._vocabulary = sampled_vocabulary
        bias = settings.logit_bias
        self._biased = np.fromiter(bias.keys(), np.int64, len(bias))
        self._bias = np.fromiter(bias.values(), np.float32, len(bias))
        self._seen = TokenCounts() if settings.repetition_penalty != 1.0 else None
        if self._seen is not None:
            for token in prompt_ids:
                if sampled_vocabulary is None or token < sampled_vocabulary:
                    self._seen.add(token)
        counts = settings.frequency_penalty != 0.0 or settings.presence_penalty != 0.0
        self._written = TokenCounts() if counts else None
        self._sequences: RepeatedSequences | None = None
        if settings.dry_multiplier > 0.0:
            self._sequences = RepeatedSequences(settings, prompt_ids, bytes_of)
        self._result = np.empty(0, np.float32)

    @property
    def change_nothing(self) -> bool:
        """Whether the settings leave all logits as they are."""
        return not len(self._biased) and (
            self._seen is None and self._written is None and self._sequences is None
        )

    def apply(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the changed logits [vocabulary]; the array is used again by the next call.

        Raises:
            OptionsError: A token with a bias is outside the vocabulary.
        """
        if len(self._result) != len(logits):
            self._result = np.empty(len(logits), np.float32)
            self._check_biased(len(logits))
        result = self._result
        np.copyto(result, logits)
        if len(self._biased):
            result[self._biased] += self._bias
        if self._seen is not None:
            penalize_in_place(result, self._seen.ids, self._settings.repetition_penalty)
        if self._written is not None:
            result[self._written.ids] -= self._written.counts * np.float32(
                self._settings.frequency_penalty
            ) + np.float32(self._settings.presence_penalty)
        if self._sequences is not None:
            ids, penalties = self._sequences.penalties()
            known = ids < len(result)
            result[ids[known]] -= penalties[known].astype(np.float32)
        return result

    def note(self, token: int) -> None:
        """Note the next token of the answer."""
        if self._seen is not None:
            self._seen.add(token)
        if self._written is not None:
            self._written.add(token)
        if self._sequences is not None:
            self._sequences.note(token)

    def _check_biased(self, vocabulary: int) -> None:
        outside = self._biased[self._biased >= vocabulary]
        if len(outside):
            raise OptionsError(
                f"logit_bias has the token {outside[0]}; accepted by this model: 0 to"
                f" {vocabulary - 1}"
            )


def penalize_in_place(
    logits: NDArray[Floating], seen_ids: NDArray[np.int64], penalty: float
) -> None:
    """Apply the repetition penalty to logits [vocabulary], once per id; no id is there twice."""
    values = logits[seen_ids]
    logits[seen_ids] = np.where(values < 0, values * penalty, values / penalty)

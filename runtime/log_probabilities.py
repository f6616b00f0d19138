"""How likely the model itself held each token of an answer, and which others it held likely.

Workflow: one `LogProbabilityRecorder` an answer that asks for it; `observe` is given the logits of
a step as the engine computed them, `of` then tells what became of them.

Rules: probabilities are those of the model's own distribution, the softmax of its logits over the
vocabulary without padding rows: before bias, penalties, temperature, filters and an output format
change anything, as in OpenAI's interface. Natural logarithms, computed in float64. A token that the
model holds impossible (-inf) is never among the likeliest.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.generation import TokenLogProbability
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.sampling import at_least_the_largest, check_largest


class LogProbabilityRecorder:
    """Tells the log-probabilities of the tokens of one answer."""

    def __init__(self, likeliest: int, *, sampled_vocabulary: int | None = None) -> None:
        """Begin.

        Args:
            likeliest: Of each step, how many of the likeliest tokens are told; 0 or more.
            sampled_vocabulary: Ids from here on are padding rows; None: there are none.
        """
        self._count = likeliest
        self._vocabulary = sampled_vocabulary
        self._total = 0.0  # logarithm of the sum of the exponentials of all logits
        self._likeliest: tuple[tuple[int, float], ...] = ()

    def observe(self, logits: NDArray[np.float32]) -> None:
        """Take the logits [vocabulary] of a step, before anything changes them.

        Raises:
            LogitsError: The largest logit is NaN or infinite.
        """
        logits = logits[: self._vocabulary]
        largest = float(logits[logits.argmax()])  # argmax finds a NaN first
        check_largest(largest)
        exponentials = np.exp(logits.astype(np.float64) - largest)
        self._total = largest + math.log(float(exponentials.sum()))
        self._likeliest = self._largest(logits)

    def of(self, token: int, logit: float) -> TokenLogProbability:
        """Tell about the token that came of the logits that were observed.

        Args:
            token: Its id.
            logit: Its own logit, as the engine computed it.
        """
        return TokenLogProbability(token, logit - self._total, self._likeliest)

    def _largest(self, logits: NDArray[np.float32]) -> tuple[tuple[int, float], ...]:
        if self._count == 0:
            return ()
        ids = at_least_the_largest(logits, min(self._count, len(logits)))
        order = ids[np.argsort(-logits[ids], kind="stable")][: self._count]
        return tuple(
            (token, logit - self._total)
            for token, logit in zip(order.tolist(), logits[order].tolist(), strict=True)
            if logit > -math.inf
        )


def recorder_of(
    options: GenerationOptions, sampled_vocabulary: int | None
) -> LogProbabilityRecorder | None:
    """Return what records an answer's log-probabilities; None where nobody asks for them."""
    if options.logprobs is None:
        return None
    return LogProbabilityRecorder(options.logprobs, sampled_vocabulary=sampled_vocabulary)

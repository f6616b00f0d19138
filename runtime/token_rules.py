"""Which tokens may come next whatever the model says: what a checkpoint's configuration demands.

Rules: a token that may not come has the score -inf, and a forced one is certain, as in the logits
processors of transformers' ``generate``: neither changes the scores of other tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenRules:
    """What holds for every answer of a model.

    Attributes:
        end: Ids that end an answer.
        sampled: Ids from here on are padding rows of the vocabulary and never come; None: all may.
        forced_first: What an answer begins with, such as BART's ``forced_bos_token_id``.
        forced_last: What ends an answer that has no room for more (``forced_eos_token_id``).
        least: Tokens before an answer may end.
    """

    end: Collection[int]
    sampled: int | None = None
    forced_first: int | None = None
    forced_last: int | None = None
    least: int = 0

    def restrict(self, scores: NDArray[np.floating[Any]], position: int, *, is_last: bool) -> None:
        """Apply the rules in place.

        Args:
            scores: [rows, vocabulary], logits or log-probabilities.
            position: Of the token that is chosen by them, in the answer, from 0 on.
            is_last: Whether there is no room for another behind it.
        """
        forced = self.forced_first if position == 0 else None
        if is_last and self.forced_last is not None:
            forced = self.forced_last
        if forced is not None:
            scores[:] = -np.inf
            scores[:, forced] = 0.0
            return
        if self.sampled is not None:
            scores[:, self.sampled :] = -np.inf
        if position < self.least:
            scores[:, list(self.end)] = -np.inf

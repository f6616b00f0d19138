"""DRY ("don't repeat yourself"): makes it less likely that a text goes round in circles.

A token is penalized when it would continue a sequence that has been there before: where the last n
tokens of prompt and answer already stood elsewhere in them, whatever followed there loses
``multiplier * base ** (n - allowed_length)`` of its logit, provided that n is at least
``allowed_length``. Of several such places the longest n counts. (P. E. Weidmann, pull request 5677
of text-generation-webui, 2024; llama.cpp's ``dry`` sampler.)

Rules: no sequence reaches over a breaker, a text such as a line break, behind which a text may
begin as it did before; and a token that holds a breaker is never penalized. A breaker may be spread
over several tokens. Work a token is one pass over the tokens, without a loop in Python; the penalty
is limited, so that it never makes a token impossible by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.options import SamplingSettings

LARGEST_PENALTY = 1e30  # leaves a logit a finite float32


class RepeatedSequences:
    """Knows which tokens would continue a sequence of an earlier place, and how long that is."""

    def __init__(
        self,
        settings: SamplingSettings,
        prompt_ids: Sequence[int] = (),
        bytes_of: Callable[[int], bytes] | None = None,
    ) -> None:
        """Read the prompt, in time linear in its length.

        Args:
            settings: Whose ``dry_multiplier`` is above 0.
            prompt_ids: The prompt's token ids.
            bytes_of: Gives the bytes that a token adds to a text; None: breakers are not found.
        """
        self._multiplier = settings.dry_multiplier
        self._base = settings.dry_base
        self._allowed = settings.dry_allowed_length
        self._breakers = tuple(
            text.encode(errors="surrogatepass") for text in settings.dry_breakers
        )
        self._bytes_of = bytes_of if self._breakers else None
        self._tail_length = max(map(len, self._breakers), default=1) - 1
        self._tail = b""  # the end of the text, in which a breaker may have begun
        self._since_breaker = 0  # tokens
        self._is_breaker: dict[int, bool] = {}
        self._count = len(prompt_ids)
        self._tokens = np.empty(2 * self._count + 64, np.int64)
        self._tokens[: self._count] = prompt_ids
        # For each token but the last: how many tokens, itself and before it, are those at the end.
        self._lengths = np.zeros(len(self._tokens), np.int64)
        lengths = _lengths_of_endings(prompt_ids)
        self._lengths[: len(lengths)] = lengths
        for token in prompt_ids:
            self._watch(token)

    def note(self, token: int) -> None:
        """Note the next token of the answer."""
        count = self._count
        if count == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.empty_like(self._tokens)])
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
        self._tokens[count] = token
        if count:
            same = self._tokens[:count] == token
            lengths = self._lengths[:count]
            lengths[1:] = np.where(same[1:], lengths[:-1] + 1, 0)
            lengths[0] = same[0]
        self._count += 1
        self._watch(token)

    def penalties(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the tokens that would continue a repetition, and what their logits lose."""
        lengths = np.minimum(self._lengths[: max(self._count - 1, 0)], self._since_breaker)
        places = np.flatnonzero(lengths >= self._allowed)
        ids, which = np.unique(self._tokens[places + 1], return_inverse=True)
        longest = np.zeros(len(ids), np.int64)
        np.maximum.at(longest, which, lengths[places])
        kept = np.fromiter((not self._holds_breaker(int(token)) for token in ids), bool, len(ids))
        return ids[kept], self._penalty(longest[kept])

    def _penalty(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        exponents = (lengths - self._allowed).astype(np.float64)
        if self._base > 1.0:
            np.minimum(exponents, math.log(LARGEST_PENALTY) / math.log(self._base), out=exponents)
        return np.minimum(self._multiplier * self._base**exponents, LARGEST_PENALTY)

    def _watch(self, token: int) -> None:
        """Count the tokens behind the last breaker."""
        self._since_breaker += 1
        if self._bytes_of is None:
            return
        added = self._bytes_of(token)
        text = self._tail + added
        if any(
            text.find(one, max(0, len(self._tail) - len(one) + 1)) >= 0 for one in self._breakers
        ):
            self._since_breaker = 0
        self._tail = text[len(text) - min(len(text), self._tail_length) :]

    def _holds_breaker(self, token: int) -> bool:
        if self._bytes_of is None:
            return False
        if token not in self._is_breaker:
            added = self._bytes_of(token)
            self._is_breaker[token] = any(one in added for one in self._breakers)
        return self._is_breaker[token]


def _lengths_of_endings(ids: Sequence[int]) -> list[int]:
    """Return, for each id but the last, how many ids up to it equal the last ones of all.

    This is the Z-algorithm on the reversed ids, whose time is linear.
    """
    reverse = list(reversed(ids))
    count = len(reverse)
    lengths = [0] * count
    begin = end = 0  # of the match that reaches furthest
    for start in range(1, count):
        length = min(lengths[start - begin], end - start) if start < end else 0
        while start + length < count and reverse[length] == reverse[start + length]:
            length += 1
        lengths[start] = length
        if start + length > end:
            begin, end = start, start + length
    return lengths[:0:-1]

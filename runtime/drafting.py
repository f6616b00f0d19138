"""Drafts of what may follow, which one step of the model checks all at once.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192) with drafts that are certain: the
model's own choice is made at every place of the draft, exactly as it would be made without one, and
as long as it is the drafted token the next place's logits are valid. So the answer's tokens are the
same, whatever the sampling, and only their number in a step changes.

Two kinds: `PromptLookup` finds the last words earlier in the text and drafts what followed there
(Saxena 2023, "prompt lookup decoding"), which costs nothing and pays where an answer quotes its
prompt; `ModelDrafter` asks a smaller model with the same vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from edgewise.runtime.backends.protocol import Backend

LONGEST, SHORTEST = 4, 2  # tokens that are looked for earlier in the text
_CHUNK = 256  # tokens that a draft's model reads at once


class Drafter(Protocol):
    """Drafts for one answer."""

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """Guess what follows.

        Args:
            tokens: Prompt and answer so far; from call to call it only grows.
            most: Tokens to guess at most, at least 1.

        Returns:
            From none to ``most`` tokens.
        """


class PromptLookup:
    """Drafts what followed the last tokens where they stood before."""

    def __init__(self) -> None:
        """Begin with an empty text."""
        self._places: dict[tuple[int, ...], int] = {}  # of what follows a run of tokens
        self._noted = 0  # tokens whose runs are in the table

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """See ``Drafter``."""
        self._note(tokens)
        for size in range(LONGEST, SHORTEST - 1, -1):
            place = self._places.get(tuple(tokens[-size:])) if len(tokens) >= size else None
            if place is not None:
                return list(tokens[place : place + most])
        return []

    def _note(self, tokens: Sequence[int]) -> None:
        """Enter the runs that something follows; of equal ones the latest counts."""
        for end in range(max(self._noted, SHORTEST), len(tokens)):
            for size in range(SHORTEST, min(LONGEST, end) + 1):
                self._places[tuple(tokens[end - size : end])] = end
        self._noted = len(tokens)


class ModelDrafter:
    """Drafts with the most likely tokens of a smaller model, for any number of answers in turn."""

    def __init__(self, backend: Backend) -> None:
        """Begin with an empty cache.

        Args:
            backend: The smaller model; its slot 0 is used, and nothing else may use it.
        """
        self._backend = backend
        self._lock = threading.Lock()
        self._held: list[int] = []  # tokens whose keys and values are in the slot

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """See ``Drafter``; nothing is drafted where the smaller model's context ends."""
        with self._lock:
            most = min(most, self._backend.capacity - len(tokens) + 1)
            if most < 1:
                return []
            drafted: list[int] = []
            token = self._read(tokens)
            while True:
                drafted.append(token)
                if len(drafted) == most:
                    return drafted
                token = self._feed([token])

    def close(self) -> None:
        """Give the smaller model's memory back."""
        with self._lock:
            self._backend.close()

    def _read(self, tokens: Sequence[int]) -> int:
        """Bring the slot up to the text and return what is most likely to follow."""
        same = 0
        for held, token in zip(self._held, tokens[:-1], strict=False):
            if held != token:
                break
            same += 1
        del self._held[same:]
        token = 0
        for start in range(same, len(tokens), _CHUNK):
            token = self._feed(list(tokens[start : start + _CHUNK]))
        return token

    def _feed(self, tokens: list[int]) -> int:
        past = np.array([len(self._held)], np.int32)
        logits = self._backend.step(0, np.array([tokens], np.int64), past)
        self._held += tokens
        return int(logits[0].argmax())

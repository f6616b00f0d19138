"""Questions about texts, each with the type of its answer; what asks is a `Requester`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from edgewise.device.reply_messages import Results
from edgewise.device.request_messages import DEFAULT_PRIORITY, Text
from edgewise.device.results import (
    Span,
    Word,
    labels_of,
    scores_of,
    spans_of,
    vector_of,
    words_of,
)

DEADLINE_SECONDS = 120.0


class TextQuestions(ABC):
    """Asks by `judge`, whose arguments and errors are those of every question here."""

    @abstractmethod
    def judge(
        self,
        device: str,
        verb: str,
        texts: Sequence[Text],
        *,
        top: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> Results:
        """Ask about texts, and wait for the results as they stand in the reply."""

    def classify(
        self,
        device: str,
        texts: Sequence[Text],
        *,
        top: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> list[dict[str, float]]:
        """Return the labels of each text and their probabilities, the most probable first."""
        found = self.judge(
            device,
            "classify",
            texts,
            top=top,
            priority=priority,
            deadline_seconds=deadline_seconds,
        )
        return [labels_of(result) for result in found.results]

    def fill(
        self,
        device: str,
        texts: Sequence[Text],
        *,
        top: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> list[list[list[Word]]]:
        """Return for each text, for each mask in it in order, words, the most probable first."""
        found = self.judge(
            device, "fill", texts, top=top, priority=priority, deadline_seconds=deadline_seconds
        )
        return [words_of(result) for result in found.results]

    def tokens(
        self,
        device: str,
        texts: Sequence[str],
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> list[list[Span]]:
        """Return the labelled parts of each text, such as names, in order."""
        found = self.judge(
            device, "tokens", texts, priority=priority, deadline_seconds=deadline_seconds
        )
        return [spans_of(result) for result in found.results]

    def embed(
        self,
        device: str,
        texts: Sequence[str],
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> list[list[float]]:
        """Return a vector of length 1 for each text."""
        found = self.judge(
            device, "embed", texts, priority=priority, deadline_seconds=deadline_seconds
        )
        return [vector_of(result) for result in found.results]

    def score(
        self,
        device: str,
        texts: Sequence[str],
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> list[dict[str, float]]:
        """Return the scores of each text by label."""
        found = self.judge(
            device, "score", texts, priority=priority, deadline_seconds=deadline_seconds
        )
        return [scores_of(result) for result in found.results]

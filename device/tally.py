"""What an agent has done since it started, counted by whichever thread did it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from edgewise.device.reply_messages import End, Failure, Results

MIN_RETRY_MS = 250
MAX_RETRY_MS = 60_000
_FIRST_GUESS_SECONDS = 2.0  # of a request's duration, before there has been one
_WEIGHT = 0.3  # of the latest duration in the running mean


@dataclass(frozen=True)
class Counts:
    """The counts of one moment; see ``announcements.Health``."""

    answered: int = 0
    cut_short: int = 0
    failed: int = 0
    refused: int = 0
    tokens_per_second: float | None = None
    prompt_tokens: int = 0
    reused_tokens: int = 0


class Tally:
    """Counts, and a running mean of how long an answer takes."""

    def __init__(self, slots: int = 1) -> None:
        """Begin at nothing; ``slots`` answers are made at once."""
        self._slots = slots
        self._lock = threading.Lock()
        self._counts = Counts()
        self._mean_seconds = _FIRST_GUESS_SECONDS

    @property
    def counts(self) -> Counts:
        """The counts of this moment."""
        return self._counts

    def refuse(self) -> None:
        """Count a message that was not taken."""
        with self._lock:
            self._counts = replace(self._counts, refused=self._counts.refused + 1)

    def end(self, reply: End, duration_seconds: float | None) -> None:
        """Count the end of a request.

        Args:
            reply: The end.
            duration_seconds: How long the model worked on it; None if it never began.
        """
        with self._lock:
            counts = self._counts
            if isinstance(reply, Failure):
                self._counts = replace(counts, failed=counts.failed + 1)
            elif isinstance(reply, Results) or reply.status == "ok":
                usage = reply.usage
                rate = usage.tokens_per_second
                self._counts = replace(
                    counts,
                    answered=counts.answered + 1,
                    tokens_per_second=counts.tokens_per_second if rate is None else rate,
                    prompt_tokens=counts.prompt_tokens + (usage.prompt_tokens or 0),
                    reused_tokens=counts.reused_tokens + (usage.reused_tokens or 0),
                )
            else:
                self._counts = replace(counts, cut_short=counts.cut_short + 1)
            if duration_seconds is not None:
                self._mean_seconds += _WEIGHT * (duration_seconds - self._mean_seconds)

    def retry_after_ms(self, queue_depth: int) -> int:
        """Estimate when there will be a place, in milliseconds."""
        # A queue of n moves by one place each time an answer ends; half of it leaves room to spare.
        estimate = int(1000 * self._mean_seconds * max(1.0, queue_depth / 2) / self._slots)
        return min(MAX_RETRY_MS, max(MIN_RETRY_MS, estimate))

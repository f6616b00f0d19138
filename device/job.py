"""A request that an agent has taken: what it needs until it ends, and what it took.

Rules: times are those of the monotonic clock, in seconds: a board's wall clock jumps when it finds
the network.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgewise.common.process_memory import peak_rss_bytes
from edgewise.device.ledger import Key
from edgewise.device.reply_messages import Usage
from edgewise.device.reply_stream import ReplyStream
from edgewise.device.request_messages import AnyRequest, Request
from edgewise.runtime.admission import Standing
from edgewise.runtime.cancellation import Cancellation
from edgewise.runtime.generation import Statistics


@dataclass(eq=False)
class Job:
    """A request that waits or runs.

    Attributes:
        key: Whose, and which.
        verb: How it is asked, from the topic.
        request: What is asked.
        replies: Where the answer goes.
        arrived_at: When it came.
        deadline: When nobody wants the answer any more.
        started_at: When the model began with it.
        first_token_at: When its first token was there.
        last_token_at: When its latest token was there.
        generated_tokens: How many there are.
        statistics: The model's own figures, once it has ended.
        cancellation: Set when it is ended from outside, so that the model leaves it.
    """

    key: Key
    verb: str
    request: AnyRequest
    replies: ReplyStream
    arrived_at: float
    deadline: float
    started_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    generated_tokens: int = 0
    statistics: Statistics | None = None
    cancellation: Cancellation = field(default_factory=Cancellation)

    @property
    def standing(self) -> Standing:
        """What decides its place among those that wait."""
        return Standing(self.key.client, self.request.priority, self.deadline, self.cancellation)

    def count_tokens(self, count: int, now: float) -> None:
        """Note ``count`` new tokens."""
        if count:
            self.first_token_at = now if self.first_token_at is None else self.first_token_at
            self.last_token_at = now
            self.generated_tokens += count

    def usage(self, now: float) -> Usage:
        """Return what it has taken until ``now``: the model's figures, or else our own."""
        started = self.started_at
        queue_ms = _milliseconds((now if started is None else started) - self.arrived_at)
        total_ms = _milliseconds(now - self.arrived_at)
        statistics = self.statistics
        if statistics is not None:
            return Usage(
                prompt_tokens=statistics.prompt_tokens,
                generated_tokens=statistics.generated_tokens,
                queue_ms=queue_ms,
                time_to_first_token_ms=_milliseconds(statistics.time_to_first_token_seconds),
                total_ms=total_ms,
                tokens_per_second=round(statistics.decode_tokens_per_second, 3),
                peak_rss_bytes=statistics.peak_rss_bytes,
                reused_tokens=statistics.reused_tokens,
            )
        first_ms = None
        if started is not None and self.first_token_at is not None:
            first_ms = _milliseconds(self.first_token_at - started)
        generates = isinstance(self.request, Request)
        return Usage(
            generated_tokens=self.generated_tokens if generates else None,
            queue_ms=queue_ms,
            time_to_first_token_ms=first_ms,
            total_ms=total_ms,
            tokens_per_second=self._own_rate(),
            peak_rss_bytes=peak_rss_bytes(),
        )

    def _own_rate(self) -> float | None:
        if self.first_token_at is None or self.last_token_at is None:
            return None
        elapsed = self.last_token_at - self.first_token_at
        return round((self.generated_tokens - 1) / elapsed, 3) if elapsed > 0 else None


def _milliseconds(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 3)

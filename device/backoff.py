"""How long to wait before the next try: longer each time, and never in step with others.

When a broker comes back, all its clients must not return in the same instant; hence the jitter.
"""

from __future__ import annotations

import random


class Backoff:
    """Exponential delays with jitter."""

    def __init__(
        self,
        *,
        first_seconds: float = 0.25,
        maximum_seconds: float = 60.0,
        source: random.Random | None = None,
    ) -> None:
        """Start with ``first_seconds``, double up to ``maximum_seconds``.

        Args:
            first_seconds: The longest first delay.
            maximum_seconds: The longest delay of all.
            source: Where the jitter comes from; given by tests.
        """
        self._first = first_seconds
        self._maximum = maximum_seconds
        self._ceiling = first_seconds
        self._source = source or random.Random()  # noqa: S311 (spreads load; guards nothing)

    def next_delay(self) -> float:
        """Return the next delay in seconds, between half of the present ceiling and all of it."""
        delay = self._ceiling * (0.5 + 0.5 * self._source.random())
        self._ceiling = min(self._maximum, self._ceiling * 2)
        return delay

    def reset(self) -> None:
        """Begin again with the first delay, after something worked."""
        self._ceiling = self._first

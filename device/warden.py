"""The thread that watches the clock for an agent: deadlines, and the health message.

A model that is deep in a long prompt cannot notice that its deadline has passed, and a request that
waits has nobody to notice it; so neither is left to the worker.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edgewise.device.active_jobs import ActiveJobs
from edgewise.device.job import Job

logger = logging.getLogger(__name__)


class Warden:
    """See the module's docstring."""

    def __init__(
        self,
        active: ActiveJobs,
        *,
        on_deadline: Callable[[Job], None],
        on_interval: Callable[[], None],
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; ``start`` begins.

        Args:
            active: The jobs to watch.
            on_deadline: Ends a job whose deadline has passed.
            on_interval: Called every ``interval_seconds``.
            interval_seconds: See above.
            clock: In seconds.
        """
        self._active = active
        self._on_deadline = on_deadline
        self._on_interval = on_interval
        self._interval = interval_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._news = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="warden", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def look_again(self) -> None:
        """Notice a new deadline."""
        with self._changed:
            self._news = True
            self._changed.notify()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        next_interval = self._clock() + self._interval
        while True:
            with self._changed:
                due_at = min(next_interval, self._active.next_deadline())
                self._changed.wait_for(
                    lambda: self._news or self._closed, timeout=max(0.0, due_at - self._clock())
                )
                self._news = False
                if self._closed:
                    return
            now = self._clock()
            try:
                for job in self._active.due(now):
                    self._on_deadline(job)
                if now >= next_interval:
                    next_interval = now + self._interval
                    self._on_interval()
            except Exception:
                logger.exception("The warden met a fault and goes on")

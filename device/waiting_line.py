"""The bounded line in which jobs wait for the model.

Rules: the line is bounded and says so. Its order is that of the runtime's own queue (see
runtime/admission.py): higher priority first, then the client that was given least, then the earlier
deadline, then the earlier arrival. A job that a worker stands ready for does not wait and does not
count.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgewise.device.job import Job
from edgewise.runtime.admission import AdmissionQueue


class WaitingLine:
    """Jobs that wait for the model; every method may be called by any thread."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._jobs: AdmissionQueue[Job] = AdmissionQueue()
        self._changed = threading.Condition()
        self._ready = 0  # workers that wait for a job
        self._closed = False

    def put(self, job: Job) -> bool:
        """Add a job; False if the line is full or closed."""
        with self._changed:
            if self._closed or self._depth() >= self._capacity:
                return False
            self._jobs.put(job)
            self._changed.notify()
            return True

    def take(self) -> Job | None:
        """Wait for the next job and take it; None once the line is closed."""
        with self._changed:
            self._ready += 1
            self._changed.wait_for(lambda: len(self._jobs) or self._closed)
            self._ready -= 1
            job = self._jobs.peek()
            if self._closed or job is None:
                return None
            self._jobs.remove(job)
            return job

    def take_also(self, fits: Callable[[Job], bool]) -> list[Job]:
        """Take, without waiting, those of the jobs that fit, in the order in which they would go.

        Args:
            fits: Asked about each job once; it may count those that it has let in.
        """
        with self._changed:
            return self._remove_all(fits)

    def count(self, client: str, tokens: int) -> None:
        """Note what a client was given; it comes after those that were given less."""
        with self._changed:
            self._jobs.count(client, tokens)

    def drop_settled(self) -> None:
        """Give the places of jobs back that have ended while they waited."""
        with self._changed:
            self._remove_all(lambda job: job.replies.settled)

    def close(self) -> list[Job]:
        """Let nobody in any more, wake who waits in ``take``, and return who still stood there."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._remove_all(lambda _job: True)

    def __len__(self) -> int:
        """Return how many wait."""
        with self._changed:
            return self._depth()

    def _depth(self) -> int:
        return max(0, len(self._jobs) - self._ready)

    def _remove_all(self, which: Callable[[Job], bool]) -> list[Job]:
        removed = [job for job in self._jobs.in_turn() if which(job)]
        for job in removed:
            self._jobs.remove(job)
        return removed

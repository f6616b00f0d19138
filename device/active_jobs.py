"""The jobs that have been taken and not ended, by key: for cancels, deadlines and the stop."""

from __future__ import annotations

import threading

from edgewise.device.job import Job
from edgewise.device.ledger import Key


class ActiveJobs:
    """A small table; every method may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[Key, Job] = {}

    def add(self, job: Job) -> None:
        """Enter a job."""
        with self._lock:
            self._jobs[job.key] = job

    def remove(self, key: Key) -> Job | None:
        """Take a job out, if it is there."""
        with self._lock:
            return self._jobs.pop(key, None)

    def get(self, key: Key) -> Job | None:
        """Return a job, if it is there."""
        with self._lock:
            return self._jobs.get(key)

    def due(self, now: float) -> list[Job]:
        """Return the jobs whose deadline has passed at ``now``, on the monotonic clock."""
        with self._lock:
            return [job for job in self._open() if job.deadline <= now]

    def next_deadline(self) -> float:
        """Return the earliest deadline; infinity if there is none."""
        with self._lock:
            return min((job.deadline for job in self._open()), default=float("inf"))

    def _open(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.replies.settled]

"""All of an agent's workers: as many threads as its model computes answers at once.

Rules: the model says how many; one that does not computes one at a time. The workers take from one
line, so that a job goes to whoever is free first.
"""

from __future__ import annotations

import time

from edgewise.device.job import Job
from edgewise.device.text_generator import AnyModel
from edgewise.device.waiting_line import WaitingLine
from edgewise.device.worker import Worker


class Workers:
    """See the module's docstring."""

    def __init__(self, model: AnyModel, line: WaitingLine, *, max_tokens: int) -> None:
        """Prepare; ``start`` begins.

        Args:
            model: What answers, called from as many threads as its ``answers_at_once``.
            line: Where jobs come from; closing it ends the workers.
            max_tokens: The most tokens for a request that does not say.
        """
        count = int(getattr(model, "answers_at_once", 1))
        self._workers = [
            Worker(model, line, max_tokens=max_tokens, number=number) for number in range(count)
        ]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._workers)

    def start(self) -> None:
        """Begin to take jobs."""
        for worker in self._workers:
            worker.start()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs that run."""
        return tuple(job for worker in self._workers for job in worker.jobs)

    @property
    def alive(self) -> bool:
        """Whether all of them run."""
        return all(worker.alive for worker in self._workers)

    def join(self, timeout: float) -> bool:
        """Wait until all have ended, after the line was closed; False if one has not.

        Args:
            timeout: Seconds for all of them together.
        """
        give_up = time.monotonic() + timeout
        for worker in self._workers:
            if worker.alive:
                worker.join(max(0.0, give_up - time.monotonic()))
        return not any(worker.alive for worker in self._workers)

"""Who generates now, and who waits: places at the engine, and a line before them.

Workflow: `join` with what begins a generation; it is called at once or when its turn has come, and
whoever ends says so by `leave`, before or after its turn. Everything happens in the event loop.

Rules: no more than ``places`` have begun, no more than ``queue_size`` wait. Among those that wait
the client comes first that was given least (see runtime/admission.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from edgewise.device.http.api_errors import ApiError
from edgewise.runtime.admission import AdmissionQueue, Standing

RETRY_MOST = 60  # seconds that a client is asked to wait
FIRST_GUESS = 2.0  # seconds of a generation, while none has ended


class Ticket:
    """A place in the line, or at the engine."""

    def __init__(self, standing: Standing, begin: Callable[[], None]) -> None:
        self.standing = standing
        self.begin = begin
        self.begun_at: float | None = None
        self.left = False


class Line:
    """See the module's docstring."""

    def __init__(self, places: int, queue_size: int) -> None:
        """Begin with nobody.

        Args:
            places: Generations at once.
            queue_size: That may wait.
        """
        self._places = places
        self._queue_size = queue_size
        self._waiting: AdmissionQueue[Ticket] = AdmissionQueue()
        self._begun = 0
        self._seconds = FIRST_GUESS  # of a generation; a moving mean

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def begun(self) -> int:
        """How many generate."""
        return self._begun

    def check_room(self, count: int) -> None:
        """Refuse more than there is room for.

        Raises:
            ApiError: 429, with the seconds after which there may be room.
        """
        room = self._places - self._begun + self._queue_size - self.waiting
        if count <= room:
            return
        seconds = self._seconds * (self.waiting + count) / self._places
        wait = min(RETRY_MOST, max(1, math.ceil(seconds)))
        raise ApiError(
            f"The server is busy: {self._begun} answers are generated and {self.waiting} wait; "
            f"there is room for {room} more, not for {count}. Ask again in {wait} s.",
            status=429,
            kind="rate_limit_error",
            code="queue_full",
            headers={"retry-after": str(wait)},
        )

    def join(self, client: str, begin: Callable[[], None]) -> Ticket:
        """Stand in line, for which there must be room; ``begin`` may be called before this returns.

        Args:
            client: Whose generation it is.
            begin: Called once, when it may begin.
        """
        ticket = Ticket(Standing(client), begin)
        self._waiting.put(ticket)
        self._call_next()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give a place up; a second call does nothing."""
        if ticket.left:
            return
        ticket.left = True
        if ticket.begun_at is None:
            self._waiting.remove(ticket)
            return
        self._seconds += 0.2 * (time.monotonic() - ticket.begun_at - self._seconds)
        self._begun -= 1
        self._call_next()

    def count(self, ticket: Ticket, tokens: int) -> None:
        """Note what a client was given."""
        self._waiting.count(ticket.standing.client, tokens)

    def _call_next(self) -> None:
        while self._begun < self._places and (ticket := self._waiting.peek()) is not None:
            self._waiting.remove(ticket)
            self._begun += 1
            ticket.begun_at = time.monotonic()
            ticket.begin()

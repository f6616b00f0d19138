"""Which waiting request is begun next.

Workflow: `put` requests, `peek` the next, `remove` what begins or was cancelled, `count` what each
client was given. Nothing here knows a model.

Rules: higher priority first. Among equals the client that was given least, so that one who asks
much does not hold up the others (virtual token counters, arXiv 2401.00588): a client that comes
back starts no lower than the least served of those that wait. Among one client's own the earlier
deadline, then the earlier arrival.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.cancellation import Cancellation

CLIENTS_MAX = 1024  # whose counts are kept


class LateError(EdgewiseError):
    """A request's deadline passed before its turn came."""


@dataclass(frozen=True)
class Standing:
    """What decides a request's place, and how long it is wanted.

    Attributes:
        client: Whose it is; the same text for all of one client.
        priority: Larger is earlier.
        deadline: Seconds of a monotonic clock until which it is useful; None: for ever.
        cancellation: Set once nobody wants it any more.
    """

    client: str = ""
    priority: int = 0
    deadline: float | None = None
    cancellation: Cancellation = field(default_factory=Cancellation, compare=False)


class Waiting(Protocol):
    """What can wait."""

    @property
    def standing(self) -> Standing:
        """What decides its place."""


Item = TypeVar("Item", bound=Waiting)


class AdmissionQueue(Generic[Item]):
    """The requests that wait."""

    def __init__(self) -> None:
        """Begin with none."""
        self._waiting: list[tuple[int, Item]] = []
        self._arrivals = 0
        self._served: dict[str, float] = {}  # tokens by client

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def put(self, item: Item) -> None:
        """Add a request."""
        client = item.standing.client
        others = [self._served.get(other.standing.client, 0.0) for _, other in self._waiting]
        least = min(others, default=max(self._served.values(), default=0.0))
        if not any(other.standing.client == client for _, other in self._waiting):
            self._note(client, max(self._served.get(client, 0.0), least))
        self._waiting.append((self._arrivals, item))
        self._arrivals += 1

    def peek(self) -> Item | None:
        """Return the request that is next, which goes on waiting; None if there is none."""
        return min(self._waiting, key=self._place)[1] if self._waiting else None

    def in_turn(self) -> list[Item]:
        """Return all requests in the order in which they would begin, as things stand."""
        return [item for _, item in sorted(self._waiting, key=self._place)]

    def late(self, now: float) -> list[Item]:
        """Return the requests whose deadline is before ``now``, seconds of the same clock."""
        return [
            item
            for _, item in self._waiting
            if item.standing.deadline is not None and item.standing.deadline < now
        ]

    def remove(self, item: Item) -> bool:
        """Take a request out; return whether it was there."""
        for index, (_, waiting) in enumerate(self._waiting):
            if waiting is item:
                del self._waiting[index]
                return True
        return False

    def count(self, client: str, tokens: int) -> None:
        """Note what a client was given."""
        self._note(client, self._served.get(client, 0.0) + tokens)

    def _note(self, client: str, served: float) -> None:
        if client not in self._served and len(self._served) >= CLIENTS_MAX:
            # Whoever was given least is least harmed by being taken for new.
            del self._served[min(self._served, key=lambda name: self._served[name])]
        self._served[client] = served

    def _place(self, entry: tuple[int, Item]) -> tuple[float, float, float, int]:
        arrival, item = entry
        standing = item.standing
        deadline = math.inf if standing.deadline is None else standing.deadline
        return -standing.priority, self._served.get(standing.client, 0.0), deadline, arrival

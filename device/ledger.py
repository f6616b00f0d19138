"""Which requests have been seen, and how each ended: so that none is answered twice.

MQTT delivers at least once: after a lost connection a request may come again. A repeat of a
request that runs is ignored, a repeat of one that has ended gets the same answer again, and the
same id with another content is a mistake of the sender. Workflow: ``open`` when a request arrives,
before it is acknowledged; ``settle`` before its answer is sent; ``forget`` if it was not taken
after all.

Rules: a key is (sender as the broker checked it, id). What is settled is kept for a while, bounded
in number and bytes. ``Ledger`` is the interface; ``MemoryLedger`` forgets with the process.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

MAX_ENTRIES = 512
MAX_OUTCOME_BYTES = 4 * 1024 * 1024  # of all kept outcomes together
KEPT_SECONDS = 600.0  # how long an outcome is kept after its request's own lifetime


@dataclass(frozen=True)
class Key:
    """Names a request: its sender and the id that the sender gave it."""

    client: str
    request_id: str


@dataclass(frozen=True)
class Entry:
    """A request as it arrived.

    Attributes:
        key: Whose, and which.
        verb: What it asks for.
        content: Its payload in one canonical form; with the verb, equal means the same request.
        reply_topic: Where the answer goes.
        correlation: What goes back with it.
        lifetime_seconds: How long from now anybody wants the answer.
    """

    key: Key
    verb: str
    content: bytes
    reply_topic: str
    correlation: bytes | None
    lifetime_seconds: float


class Standing(Enum):
    """What a request is to the ledger."""

    NEW = auto()  # not seen before; it is open now
    OPEN = auto()  # waits or runs already
    SETTLED = auto()  # has ended
    CONFLICT = auto()  # the id is that of another request


@dataclass(frozen=True)
class Verdict:
    """The answer of ``open``; ``outcome`` is the payload of the last reply of a settled one."""

    standing: Standing
    outcome: bytes | None = None


class Ledger(Protocol):
    """The interface; any thread may call it."""

    def open(self, entry: Entry) -> Verdict:
        """Record a request that arrived, unless it is known."""

    def settle(self, key: Key, outcome: bytes) -> None:
        """Record how a request ended; ``outcome`` is the payload of its last reply."""

    def forbid(self, key: Key, outcome: bytes, lifetime_seconds: float) -> Verdict:
        """Record the end of a request that may still arrive, unless it is known already."""

    def forget(self, key: Key) -> None:
        """Remove a request that was not taken after all."""

    def unfinished(self) -> list[Entry]:
        """Return what is open, the oldest first."""


@dataclass
class _Record:
    digest: bytes | None  # SHA-256 of verb and content; None: forbidden before it came
    entry: Entry | None  # while it is open: long prompts are not kept after that
    expires_at: float  # on the ledger's clock
    outcome: bytes | None = None


def _digest(entry: Entry) -> bytes:
    return hashlib.sha256(entry.verb.encode() + b"/" + entry.content).digest()


class MemoryLedger:
    """A ledger that lasts as long as the process."""

    def __init__(
        self,
        *,
        max_entries: int = MAX_ENTRIES,
        max_outcome_bytes: int = MAX_OUTCOME_BYTES,
        kept_seconds: float = KEPT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()
        self._records: OrderedDict[Key, _Record] = OrderedDict()
        self._max_entries = max_entries
        self._max_outcome_bytes = max_outcome_bytes
        self._kept_seconds = kept_seconds
        self._outcome_bytes = 0
        self._clock = clock

    def open(self, entry: Entry) -> Verdict:
        """Record a request that arrived, unless it is known."""
        with self._lock:
            self._make_room()
            record = self._records.get(entry.key)
            if record is None:
                expires_at = self._clock() + entry.lifetime_seconds + self._kept_seconds
                self._records[entry.key] = _Record(_digest(entry), entry, expires_at)
                return Verdict(Standing.NEW)
            if record.digest not in {None, _digest(entry)}:
                return Verdict(Standing.CONFLICT)
            return self._known(record)

    def settle(self, key: Key, outcome: bytes) -> None:
        """Record how a request ended."""
        with self._lock:
            record = self._records.get(key)
            if record is not None:
                self._outcome_bytes += len(outcome) - len(record.outcome or b"")
                record.outcome = outcome
                record.entry = None
            self._make_room()

    def forbid(self, key: Key, outcome: bytes, lifetime_seconds: float) -> Verdict:
        """Record the end of a request that may still arrive, unless it is known already."""
        with self._lock:
            self._make_room()
            record = self._records.get(key)
            if record is not None:
                return self._known(record)
            self._records[key] = _Record(None, None, self._clock() + lifetime_seconds, outcome)
            self._outcome_bytes += len(outcome)
            return Verdict(Standing.NEW)

    def forget(self, key: Key) -> None:
        """Remove a request that was not taken after all."""
        with self._lock:
            self._remove(key)

    def unfinished(self) -> list[Entry]:
        """Return what is open, the oldest first."""
        with self._lock:
            return [record.entry for record in self._records.values() if record.entry is not None]

    def __len__(self) -> int:
        """Return how many requests are remembered."""
        with self._lock:
            return len(self._records)

    @staticmethod
    def _known(record: _Record) -> Verdict:
        if record.outcome is None:
            return Verdict(Standing.OPEN)
        return Verdict(Standing.SETTLED, record.outcome)

    def _make_room(self) -> None:
        """Remove what has expired, then the oldest settled ones while there are too many."""
        now = self._clock()
        settled = [key for key, record in self._records.items() if record.outcome is not None]
        for key in settled:
            too_many = len(self._records) >= self._max_entries
            too_large = self._outcome_bytes > self._max_outcome_bytes
            if too_many or too_large or self._records[key].expires_at <= now:
                self._remove(key)

    def _remove(self, key: Key) -> None:
        record = self._records.pop(key, None)
        if record is not None:
            self._outcome_bytes -= len(record.outcome or b"")

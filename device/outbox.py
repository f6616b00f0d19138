"""Messages on their way to the broker, bounded.

Workflow: any thread puts a message in and gets its ``Delivery``; the connection's thread takes the
next one, and puts back in front what was in flight when a connection ended. Rules: bounded in
messages and bytes, in flight included, because a broker that is away for a day must not fill the
board's memory; expired messages are dropped, not sent; a message in flight at too many connection
losses is dropped, because it may be what the broker hangs up for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from edgewise.device.errors import DeviceError, OutboxFullError

MAX_MESSAGES = 1000
MAX_BYTES = 8 * 1024 * 1024
MAX_ATTEMPTS = 5  # connections that may be lost with one message in flight
SUSPECT_ATTEMPTS = 2  # from then on it is sent alone, so that it takes no other down with it
PACKET_OVERHEAD = 96  # bytes: an upper bound of the headers and fixed-size properties of a PUBLISH


@dataclass(frozen=True)
class Outgoing:
    """A message to publish.

    Attributes:
        topic: Where to.
        payload: The content.
        qos: 0 or 1.
        retain: Whether the broker keeps it.
        expires_at: On the monotonic clock, in seconds: when nobody wants it any more.
        lifetime_seconds: How long the broker keeps it, where that is no point in time (retained
            messages); ``expires_at`` wins.
        response_topic: Where the receiver shall answer (MQTT 5).
        correlation: What the receiver shall give back (MQTT 5).
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    expires_at: float | None = None
    lifetime_seconds: float | None = None
    response_topic: str | None = None
    correlation: bytes | None = None

    @property
    def packet_bytes(self) -> int:
        """An upper bound of the size of the PUBLISH packet."""
        properties = len((self.response_topic or "").encode()) + len(self.correlation or b"")
        return len(self.topic.encode()) + len(self.payload) + properties + PACKET_OVERHEAD


class Delivery:
    """What became of one message; made by the connection, read by whoever published."""

    def __init__(self) -> None:
        self._settled = threading.Event()
        self._error: DeviceError | None = None
        self._no_subscribers = False

    def wait(self, timeout: float) -> bool:
        """Wait until the broker has it; False if that takes more than ``timeout`` seconds.

        Raises:
            DeviceError: If it was dropped or refused.
        """
        if not self._settled.wait(timeout):
            return False
        if self._error is not None:
            raise self._error
        return True

    @property
    def no_subscribers(self) -> bool:
        """Whether the broker said that nobody subscribes to the topic (MQTT 5, QoS 1)."""
        return self._no_subscribers

    @property
    def error(self) -> DeviceError | None:
        """Why the broker does not have it; None while that is open, or if it has."""
        return self._error

    def succeed(self, *, no_subscribers: bool = False) -> None:
        """Record that the broker has it."""
        self._no_subscribers = no_subscribers
        self._settled.set()

    def fail(self, error: DeviceError) -> None:
        """Record that the broker will not get it."""
        self._error = error
        self._settled.set()


@dataclass
class Parcel:
    """A message in the outbox or in flight."""

    message: Outgoing
    delivery: Delivery = field(default_factory=Delivery)
    attempts: int = 0

    @property
    def suspect(self) -> bool:
        """Whether it may be what the broker hangs up for."""
        return self.attempts >= SUSPECT_ATTEMPTS


class Outbox:
    """The bounded queue of messages to publish; every method may be called by any thread."""

    def __init__(self, *, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Parcel] = deque()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages = 0
        self._bytes = 0

    def put(self, message: Outgoing) -> Delivery:
        """Add a message.

        Raises:
            OutboxFullError: If too many messages or bytes wait already.
        """
        parcel = Parcel(message)
        with self._lock:
            size = self._bytes + message.packet_bytes
            if self._messages >= self._max_messages or size > self._max_bytes:
                raise OutboxFullError(
                    f"{self._messages} messages ({self._bytes} bytes) wait for the broker already; "
                    "it is too slow or away."
                )
            self._messages += 1
            self._bytes = size
            self._waiting.append(parcel)
        return parcel.delivery

    def take(self, now: float) -> Parcel | None:
        """Take the next message that has not expired; it counts until ``done`` or ``put_back``."""
        while True:
            with self._lock:
                if not self._waiting:
                    return None
                parcel = self._waiting.popleft()
            expires_at = parcel.message.expires_at
            if expires_at is None or now < expires_at:
                return parcel
            self.done(parcel)
            parcel.delivery.fail(DeviceError("The message expired before it could be sent."))

    def done(self, parcel: Parcel) -> None:
        """Forget a message that was taken: the broker has it, or never will."""
        with self._lock:
            self._messages -= 1
            self._bytes -= parcel.message.packet_bytes

    def return_unsent(self, parcel: Parcel) -> None:
        """Put a message that was taken and not sent back in front."""
        with self._lock:
            self._waiting.appendleft(parcel)

    def put_back(self, parcels: Iterable[Parcel]) -> None:
        """Put what was in flight back in front, in its order, after a connection was lost."""
        again = []
        for parcel in parcels:
            parcel.attempts += 1
            if parcel.attempts < MAX_ATTEMPTS:
                again.append(parcel)
            else:
                self.done(parcel)
                parcel.delivery.fail(
                    DeviceError(f"The message was lost with {MAX_ATTEMPTS} connections.")
                )
        with self._lock:
            self._waiting.extendleft(reversed(again))

    def fail_all(self, error: DeviceError) -> None:
        """Drop everything that waits; each delivery fails with ``error``."""
        with self._lock:
            dropped = list(self._waiting)
            self._waiting.clear()
        for parcel in dropped:
            self.done(parcel)
            parcel.delivery.fail(error)

    def __len__(self) -> int:
        """Return how many messages wait or are in flight."""
        with self._lock:
            return self._messages

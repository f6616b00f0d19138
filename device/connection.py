"""A lasting connection to a broker: links opened one after the other, messages kept in between.

Workflow: ``Connection(...)``, ``start``, ``wait_until_ready``, ``publish``, ``close``. Its own
thread opens a link, subscribes, sends what waits in the outbox, pumps the link until it ends, and
opens the next after a jittered delay. Ready means: connected, and every required subscription
granted.

Rules: handlers run on that thread and must be quick; they may publish, never wait. What was in
flight when a link ended is sent again (QoS 1: at least once). Only a session taken over by another
client ends the reconnecting, since going on would throw the other out in turn.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence

from edgewise.device.backoff import Backoff
from edgewise.device.broker_address import BrokerAddress, TlsFiles
from edgewise.device.dialer import AUTO, Dialer
from edgewise.device.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    DeviceError,
    MessageTooLargeError,
    SessionTakenOverError,
)
from edgewise.device.mqtt import Link
from edgewise.device.outbox import Delivery, Outbox, Outgoing, Parcel
from edgewise.device.transport import (
    ConnectOptions,
    Incoming,
    LinkLostError,
    Subscription,
    Welcome,
)

logger = logging.getLogger(__name__)

SUBSCRIBE_SECONDS = 10.0
PUMP_SECONDS = 1.0  # the longest sleep, so that keep-alive is served
STABLE_SECONDS = 10.0  # a link that lived this long starts the delays from the beginning again


def _ignore_message(_message: Incoming) -> None:
    """Where nobody takes messages: the owner only publishes."""


def _ignore_change() -> None:
    """Where nobody cares about the connection's changes."""


class Connection:
    """See the module's docstring. Use as a context manager, or ``start`` and ``close``."""

    def __init__(
        self,
        address: BrokerAddress,
        options: ConnectOptions,
        *,
        protocol: str = AUTO,
        subscriptions: Sequence[Subscription] = (),
        tls: TlsFiles | None = None,
        on_message: Callable[[Incoming], None] = _ignore_message,
        on_ready: Callable[[], None] = _ignore_change,
        on_lost: Callable[[], None] = _ignore_change,
        outbox: Outbox | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """Prepare; nothing is sent before ``start``.

        Args:
            address: The broker.
            options: What the broker is told.
            protocol: ``"5"``, ``"3.1.1"``, or ``"auto"``: 5 where the broker speaks it.
            subscriptions: What to receive, over every link to come; each one's ``refusal`` is set
                where the broker does not grant it.
            tls: Certificates, for an ``mqtts`` address.
            on_message: Takes each message, on the connection's thread.
            on_ready: Called each time the connection has become ready, on its thread.
            on_lost: Called each time it has been lost, on its thread.
            outbox: Where messages wait.
            backoff: How long to wait between tries.

        Raises:
            DeviceError: If the protocol is unknown, or TLS files are given without TLS or cannot
                be used.
        """
        self._address = address
        self._options = options
        self._dialer = Dialer(address, options, protocol, tls)
        self._on_message = on_message
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._outbox = Outbox() if outbox is None else outbox
        self._backoff = Backoff() if backoff is None else backoff
        self._subscriptions = tuple(subscriptions)
        self._pending: dict[int, Subscription] = {}
        self._in_flight: dict[int, Parcel] = {}
        self._state = threading.Condition()
        self._welcome: Welcome | None = None
        self._ready = False
        self._was_ready = False
        self._failure: DeviceError | None = None
        self._stopped: DeviceError | None = None
        self._closing = False
        self._close_deadline = 0.0
        self._forget_session = False
        self._losses = 0
        self._faults = 0
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.settimeout(0.0)
        self._wake_writer.settimeout(0.0)
        self._thread = threading.Thread(
            target=self._run, name=f"mqtt-{options.client_id}", daemon=True
        )

    def __enter__(self) -> Connection:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # For any thread

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def wait_until_ready(self, timeout: float, *, patient: bool) -> Welcome:
        """Wait until the broker has taken us and granted the subscriptions.

        Args:
            timeout: The longest wait, in seconds.
            patient: Go on waiting when nothing answers; else that is raised at once. A link that
                breaks before it is ready is followed by another either way: a busy broker drops one
                now and then.

        Returns:
            What the broker said.

        Raises:
            BrokerUnreachableError: If nothing answers.
            BrokerRefusedError: If the broker refuses us; waiting would not help.
            LinkLostError: If every link broke.
        """
        deadline = time.monotonic() + timeout
        with self._state:
            while True:
                if self._ready and self._welcome is not None:
                    return self._welcome
                if self._stopped is not None:
                    raise self._stopped
                passing = LinkLostError | BrokerUnreachableError if patient else LinkLostError
                if self._failure is not None and not isinstance(self._failure, passing):
                    raise self._failure
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise self._failure or BrokerUnreachableError(
                        f"{self._address} was not ready within {timeout:g} seconds."
                    )
                self._state.wait(remaining)

    def publish(self, message: Outgoing) -> Delivery:
        """Send a message as soon as the connection is ready.

        At QoS 0 a message that cannot go now is dropped, and its delivery says so.

        Args:
            message: What to send.

        Returns:
            What will become of it.

        Raises:
            MessageTooLargeError: If the broker said that it takes no packet of that size.
            OutboxFullError: If too much waits already (QoS 1).
            DeviceError: If the connection has stopped for good.
        """
        with self._state:
            if self._stopped is not None:
                raise self._stopped
            ready = self._ready
            welcome = self._welcome
        if welcome is not None:
            self._check_size(message, welcome)
        if message.qos == 0:
            if not ready:
                return _dropped("There is no connection just now.")
            try:
                delivery = self._outbox.put(message)
            except DeviceError as error:
                return _dropped(str(error))
        else:
            delivery = self._outbox.put(message)
        self._wake()
        return delivery

    @property
    def ready(self) -> bool:
        """Whether messages can go now."""
        return self._ready

    @property
    def protocol(self) -> str | None:
        """The protocol that is spoken, or was last; None before the first answer."""
        return self._dialer.protocol

    @property
    def losses(self) -> int:
        """How many links have ended that were not closed by us."""
        return self._losses

    @property
    def faults(self) -> int:
        """How many exceptions handlers have raised; each has been logged."""
        return self._faults

    @property
    def stopped(self) -> DeviceError | None:
        """Why there will be no further link; None while there will."""
        return self._stopped

    @property
    def alive(self) -> bool:
        """Whether the connection's thread runs."""
        return self._thread.is_alive()

    def close(self, timeout: float = 5.0, *, forget_session: bool = False) -> None:
        """Send what waits, say goodbye and end the thread.

        Args:
            timeout: How long sending may take, in seconds; what is left then is dropped.
            forget_session: Have the broker forget our session at once.
        """
        with self._state:
            self._forget_session = forget_session
            self._close_deadline = time.monotonic() + timeout
            self._closing = True
            self._state.notify_all()
        self._wake()
        if self._thread.ident is None:  # never started
            self._wake_reader.close()
            self._wake_writer.close()
        elif self._thread is not threading.current_thread():
            self._thread.join(timeout + self._options.connect_timeout_seconds + 2.0)

    def retire(self, error: DeviceError) -> None:
        """End for good because of ``error``; a handler may call this."""
        with self._state:
            self._stopped = self._stopped or error
            self._closing = True
            self._state.notify_all()
        self._wake()

    def _wake(self) -> None:
        # A full pipe wakes as well; a closed one has nobody left to wake.
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_writer.send(b"\0")

    def _check_size(self, message: Outgoing, welcome: Welcome) -> None:
        limit = welcome.maximum_packet_bytes
        if limit is not None and message.packet_bytes > limit:
            raise MessageTooLargeError(
                f"A message of {len(message.payload)} bytes to {message.topic} does not fit: "
                f"{self._address} takes packets of at most {limit} bytes."
            )

    # On the connection's own thread

    def _run(self) -> None:
        try:
            while not self._closing:
                started = time.monotonic()
                try:
                    self._serve_link()
                except SessionTakenOverError as error:
                    logger.warning("%s", error)
                    self._stop_for_good(error)
                    return
                except DeviceError as error:
                    self._note_failure(error)
                except Exception as error:
                    logger.exception("The MQTT connection failed in a way that was not foreseen")
                    self._faults += 1
                    self._note_failure(LinkLostError(f"An unforeseen fault: {error!r}"))
                if time.monotonic() - started > STABLE_SECONDS:
                    self._backoff.reset()
                if not self._closing:
                    self._sleep(self._backoff.next_delay())
        finally:
            self._stop_for_good(DeviceError("The connection has been closed."))
            self._wake_reader.close()
            self._wake_writer.close()

    def _serve_link(self) -> None:
        link = self._open_link()
        try:
            self._adopt(link)
            while not (self._closing and self._nothing_left()):
                self._send_waiting(link)
                link.pump(PUMP_SECONDS if not self._closing else 0.05, self._wake_reader)
                self._drain_wake()
            link.close(forget_session=self._forget_session)
        finally:
            link.abandon()
            self._link_ended()

    def _open_link(self) -> Link:
        link, welcome = self._dialer.open(self)
        with self._state:
            self._welcome = welcome
        return link

    def _adopt(self, link: Link) -> None:
        """Subscribe, and become ready once the broker has granted what is required."""
        for subscription in self._subscriptions:
            identifier = link.subscribe(
                subscription.topic_filter,
                subscription.qos,
                skip_retained=subscription.skip_retained,
            )
            self._pending[identifier] = subscription
        deadline = time.monotonic() + SUBSCRIBE_SECONDS
        while self._pending and not self._closing:
            if time.monotonic() > deadline:
                raise LinkLostError(f"{self._address} does not answer to a subscription.")
            link.pump(0.25, self._wake_reader)
            self._drain_wake()
        for subscription in self._subscriptions:
            if subscription.required and subscription.refusal is not None:
                raise BrokerRefusedError(
                    f"{self._address} refuses the subscription to "
                    f"{subscription.topic_filter} ({subscription.refusal}). "
                    "The broker's access list must allow it."
                )
        logger.info("Connected to %s with MQTT %s", self._address, self.protocol)
        with self._state:
            self._ready = self._was_ready = True
            self._failure = None
            self._state.notify_all()
        self._tell(self._on_ready)

    def _send_waiting(self, link: Link) -> None:
        welcome = self._welcome
        if welcome is None:
            return
        while len(self._in_flight) < welcome.in_flight_maximum and not link.congested:
            now = time.monotonic()
            if any(parcel.suspect for parcel in self._in_flight.values()):
                return
            parcel = self._outbox.take(now)
            if parcel is None:
                return
            if parcel.suspect and self._in_flight:
                self._outbox.return_unsent(parcel)
                return
            try:
                self._check_size(parcel.message, welcome)
            except MessageTooLargeError as error:
                logger.warning("Dropped: %s", error)
                self._outbox.done(parcel)
                parcel.delivery.fail(error)
                continue
            try:
                identifier = link.publish(parcel.message, now)
            except DeviceError:
                self._outbox.return_unsent(parcel)
                raise
            if identifier is None:
                self._outbox.done(parcel)
                parcel.delivery.succeed()
            else:
                self._in_flight[identifier] = parcel

    def _nothing_left(self) -> bool:
        return len(self._outbox) == 0 or time.monotonic() > self._close_deadline

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(4096)

    def _sleep(self, seconds: float) -> None:
        with self._state:
            self._state.wait_for(lambda: self._closing, timeout=seconds)

    def _link_ended(self) -> None:
        with self._state:
            was_ready = self._ready
            self._ready = False
            self._welcome = None
            self._losses += 0 if self._closing else 1
        self._pending.clear()
        self._outbox.put_back(self._in_flight.values())
        self._in_flight.clear()
        if was_ready:
            self._tell(self._on_lost)

    def _note_failure(self, error: DeviceError) -> None:
        # Before the first success whoever waits is told; after it the log is all there is.
        logger.log(logging.WARNING if self._was_ready else logging.INFO, "%s", error)
        with self._state:
            self._failure = error
            self._state.notify_all()

    def _stop_for_good(self, error: DeviceError) -> None:
        with self._state:
            self._stopped = self._stopped or error
            self._ready = False
            self._state.notify_all()
        self._outbox.fail_all(error)

    def _tell(self, handler: Callable[[], None]) -> None:
        try:
            handler()
        except Exception:
            logger.exception("A handler of the connection's state failed")
            self._faults += 1

    def _settle(self, parcel: Parcel, *, refusal: str | None, no_subscribers: bool) -> None:
        self._outbox.done(parcel)
        if refusal is None:
            parcel.delivery.succeed(no_subscribers=no_subscribers)
        else:
            error = BrokerRefusedError(
                f"{self._address} refuses a message to {parcel.message.topic} ({refusal})."
            )
            logger.warning("%s", error)
            parcel.delivery.fail(error)

    # What a link tells (LinkEvents)

    def on_message(self, message: Incoming) -> None:
        """Hand a message on."""
        self._on_message(message)

    def on_published(self, identifier: int, *, refusal: str | None, no_subscribers: bool) -> None:
        """Settle a message that the broker has acknowledged."""
        parcel = self._in_flight.pop(identifier, None)
        if parcel is not None:
            self._settle(parcel, refusal=refusal, no_subscribers=no_subscribers)

    def on_subscribed(self, identifier: int, refusal: str | None) -> None:
        """Note the answer to a subscription."""
        subscription = self._pending.pop(identifier, None)
        if subscription is not None:
            subscription.refusal = refusal

    def on_fault(self) -> None:
        """Count an exception of the message handler."""
        self._faults += 1


def _dropped(reason: str) -> Delivery:
    delivery = Delivery()
    delivery.fail(DeviceError(reason))
    return delivery

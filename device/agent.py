"""The agent: answers requests that come over MQTT with a model on this device.

Workflow: ``start`` connects, subscribes and announces itself; from then on the connection's thread
takes requests in (``intake``), the workers' threads run the model, the warden's thread watches the
deadlines; ``stop`` ends in an orderly way. ``run`` is all of that until a signal.

Rules: whatever a message says, the agent goes on. Its client id follows from the root and the
device, so that a second agent of the same name throws the first out instead of answering beside it;
the first then stops. The model belongs to the caller and is not closed here.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable
from types import FrameType
from typing import Any

from edgewise.common.process_memory import current_rss_bytes, peak_rss_bytes
from edgewise.device.abilities import Abilities
from edgewise.device.active_jobs import ActiveJobs
from edgewise.device.agent_settings import AgentSettings
from edgewise.device.announcements import Health, Info, Status
from edgewise.device.broker_address import BrokerAddress, TlsFiles
from edgewise.device.connection import Connection
from edgewise.device.dialer import AUTO
from edgewise.device.errors import BrokerUnreachableError, DeviceError
from edgewise.device.intake import Intake
from edgewise.device.ledger import Ledger, MemoryLedger
from edgewise.device.memory_guard import MemoryGuard
from edgewise.device.outbox import Outgoing
from edgewise.device.presence import Presence
from edgewise.device.replier import Replier
from edgewise.device.request_messages import MAX_SEEING_REQUEST_BYTES, MAX_TEXTS, MAX_TOP
from edgewise.device.tally import Tally
from edgewise.device.text_generator import AnyModel, describe_model, describe_versions
from edgewise.device.topics import (
    DEFAULT_ROOT,
    HEALTH,
    INFO,
    STATUS,
    DeviceTopics,
    Policy,
)
from edgewise.device.transport import (
    ConnectOptions,
    Incoming,
    LinkLostError,
    Subscription,
    Will,
)
from edgewise.device.verbs import CANCEL, verbs_of
from edgewise.device.waiting_line import WaitingLine
from edgewise.device.warden import Warden
from edgewise.device.workers import Workers
from edgewise.firmware_profiles.memory_left import memory_left

logger = logging.getLogger(__name__)

# Topic and properties of a request. What is larger the broker drops in silence, so that images come
# through to agents that refuse them as well.
PACKET_EXTRA_BYTES = 65_536
WATCH_SECONDS = 0.5  # how often ``run`` looks whether the agent still works


class Agent:
    """See the module's docstring. Use as a context manager, ``start`` and ``stop``, or ``run``."""

    def __init__(
        self,
        model: AnyModel,
        *,
        broker: str | BrokerAddress,
        device: str,
        root: str = DEFAULT_ROOT,
        protocol: str = AUTO,
        tls: TlsFiles | None = None,
        settings: AgentSettings | None = None,
        ledger: Ledger | None = None,
        memory_left: Callable[[], int | None] = memory_left,
    ) -> None:
        """Prepare; nothing is sent before ``start``.

        Args:
            model: What answers, as its tasks say; as many requests at once as it says itself
                (``answers_at_once``), one where it says nothing.
            broker: The broker's URL, as ``mqtt://host`` or ``mqtts://user:password@host:8883``.
            device: The device's name, a level of its topics.
            root: What every topic begins with.
            protocol: ``"5"``, ``"3.1.1"``, or ``"auto"``: 5 where the broker speaks it.
            tls: Certificates, for ``mqtts``.
            settings: Limits and intervals.
            ledger: Which requests have been seen; by default in memory.
            memory_left: Gives the bytes of memory that can still be taken; None where nobody knows.

        Raises:
            DeviceError: If a name, the URL, the protocol or a certificate cannot be used.
        """
        address = BrokerAddress.parse(broker) if isinstance(broker, str) else broker
        self.topics = DeviceTopics(root, device)
        self.settings = settings or AgentSettings()
        self.session = uuid.uuid4().hex
        self._model = model
        self._verbs = verbs_of(model)
        self._abilities = Abilities.of(model)
        self._started_at = time.monotonic()
        self._active = ActiveJobs()
        self._line = WaitingLine(self.settings.queue_size)
        self._ledger: Ledger = MemoryLedger() if ledger is None else ledger
        self._workers = Workers(model, self._line, max_tokens=self.settings.default_tokens)
        self._tally = Tally(slots=len(self._workers))
        self._connection = self._new_connection(address, protocol, tls)
        self._warden = Warden(
            self._active,
            on_deadline=lambda job: self._intake.settle(job, "timeout"),
            on_interval=self._on_interval,
            interval_seconds=self.settings.health_interval_seconds,
        )
        self._intake = Intake(
            topics=self.topics,
            settings=self.settings,
            ledger=self._ledger,
            line=self._line,
            active=self._active,
            tally=self._tally,
            replier=Replier(self._connection.publish, chunk_qos=self.settings.chunk_qos),
            verbs=self._verbs,
            abilities=self._abilities,
            on_new_deadline=self._warden.look_again,
            memory=MemoryGuard(self.settings.memory_reserve_bytes, left=memory_left),
        )
        self._presence = Presence(
            self.topics,
            self.session,
            publish=self._publish_status,
            announce=self._announce,
            on_superseded=self._connection.retire,
        )
        self._stop_wanted = threading.Event()
        self._stopped = False

    def _new_connection(
        self, address: BrokerAddress, protocol: str, tls: TlsFiles | None
    ) -> Connection:
        will = Will(
            self.topics.status,
            Status("offline", self.session).encode(),
            retain=STATUS.retain,
            delay_seconds=self.settings.will_delay_seconds,
        )
        client_id = f"{self.topics.root}-{self.topics.device}-agent".replace("/", "-")
        return Connection(
            address,
            ConnectOptions(
                client_id,
                keepalive_seconds=self.settings.keepalive_seconds,
                session_expiry_seconds=self.settings.session_expiry_seconds,
                maximum_packet_bytes=MAX_SEEING_REQUEST_BYTES + PACKET_EXTRA_BYTES,
                kept_in_mqtt_3=self.settings.session_expiry_seconds > 0,
                will=will,
            ),
            protocol=protocol,
            subscriptions=[
                Subscription(self.topics.request_filter, qos=1, skip_retained=True),
                Subscription(self.topics.status, qos=1),
                Subscription(self.topics.info, qos=1),
            ],
            tls=tls,
            on_message=self._on_message,
            on_ready=self._on_ready,
            on_lost=self._on_lost,
        )

    def _on_message(self, message: Incoming) -> None:
        if message.topic == self.topics.status:
            self._presence.on_status(message)
        elif message.topic == self.topics.info:
            self._presence.on_info(message)
        else:
            self._intake.handle(message)

    def _on_ready(self) -> None:
        self._presence.on_ready()

    def _on_lost(self) -> None:
        self._presence.on_lost()

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Connect and begin to answer.

        Raises:
            BrokerUnreachableError: If nothing answers within ``wait_for_broker_seconds``.
            BrokerRefusedError: If the broker refuses the login, the certificate or a topic.
        """
        self._workers.start()
        self._warden.start()
        self._connection.start()
        try:
            self._wait_for_broker()
        except DeviceError:
            self.stop()
            raise

    def _wait_for_broker(self) -> None:
        """Wait as long as the settings say, or until the agent shall stop."""
        patience = self.settings.wait_for_broker_seconds
        if patience is None:
            return
        deadline = time.monotonic() + patience
        while not self._stop_wanted.is_set():
            remaining = deadline - time.monotonic()
            try:
                self._connection.wait_until_ready(min(WATCH_SECONDS, remaining), patient=True)
            except (BrokerUnreachableError, LinkLostError):
                if remaining <= WATCH_SECONDS:
                    raise
            else:
                return

    def run(self) -> None:
        """Start, answer until SIGTERM, SIGINT or ``request_stop``, and stop.

        Signals are caught where this is the main thread.

        Raises:
            DeviceError: If it cannot start, or another agent has taken its place.
        """
        previous: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                previous[number] = signal.signal(number, self._on_signal)
        try:
            self.start()
            while not self._stop_wanted.wait(WATCH_SECONDS):
                self.check()
        finally:
            self.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        logger.info("Stopping because of %s", signal.Signals(number).name)
        self._stop_wanted.set()

    def request_stop(self) -> None:
        """Have ``run`` stop; any thread may."""
        self._stop_wanted.set()

    def check(self) -> None:
        """Find out whether the agent still works.

        Raises:
            DeviceError: If its connection has stopped for good.
            RuntimeError: If a worker has ended, which is a fault of ours.
        """
        if self._connection.stopped is not None:
            raise self._connection.stopped
        if not self._workers.alive:
            raise RuntimeError("a thread that runs the model has ended")

    @property
    def protocol(self) -> str | None:
        """The MQTT version spoken with the broker; None before it has answered."""
        return self._connection.protocol

    def stop(self) -> None:
        """Take no more requests, let the running ones end or cut them short, and say goodbye.

        What waits is answered ``interrupted``; so is what still runs after ``stop_grace_seconds``.
        """
        if self._stopped:
            return
        self._stopped = True
        self._intake.stopping = True
        for job in self._line.close():
            self._intake.settle(job, "interrupted")
        if not self._workers.join(self.settings.stop_grace_seconds):
            for job in self._workers.jobs:
                self._intake.settle(job, "interrupted")
        self._warden.stop()
        self._presence.leave()
        self._connection.close()

    # Announcements

    def _announce(self) -> None:
        info = Info(
            device=self.topics.device,
            session=self.session,
            verbs=(*self._verbs, CANCEL),
            model=describe_model(self._model),
            versions=describe_versions(),
            limits={
                **self._abilities.limits,
                "texts": MAX_TEXTS,
                "top": MAX_TOP,
                "max_tokens": self.settings.max_tokens,
                "default_tokens": self.settings.default_tokens,
                "max_deadline_ms": int(self.settings.max_deadline_seconds * 1000),
                "queue_size": self.settings.queue_size,
                "slots": len(self._workers),
            },
        )
        self._publish(self.topics.info, info.encode(), INFO)
        self._announce_health()

    def _publish_status(self, status: Status) -> None:
        self._publish(self.topics.status, status.encode(), STATUS)

    def _on_interval(self) -> None:
        if self._connection.ready:
            self._announce_health()

    def _announce_health(self) -> None:
        counts = self._tally.counts
        health = Health(
            session=self.session,
            uptime_seconds=round(time.monotonic() - self._started_at, 3),
            slots=len(self._workers),
            queue_depth=len(self._line),
            running=len(self._workers.jobs),
            answered=counts.answered,
            cut_short=counts.cut_short,
            failed=counts.failed,
            refused=counts.refused,
            reconnects=self._connection.losses,
            faults=self._connection.faults,
            tokens_per_second=counts.tokens_per_second,
            prompt_tokens=counts.prompt_tokens,
            reused_tokens=counts.reused_tokens,
            rss_bytes=current_rss_bytes(),
            peak_rss_bytes=peak_rss_bytes(),
        )
        lifetime = 3 * self.settings.health_interval_seconds
        self._publish(self.topics.health, health.encode(), HEALTH, lifetime_seconds=lifetime)

    def _publish(
        self, topic: str, payload: bytes, policy: Policy, *, lifetime_seconds: float | None = None
    ) -> None:
        try:
            self._connection.publish(
                Outgoing(
                    topic,
                    payload,
                    qos=policy.qos,
                    retain=policy.retain,
                    lifetime_seconds=lifetime_seconds,
                )
            )
        except DeviceError as error:
            logger.warning("An announcement was not sent: %s", error)

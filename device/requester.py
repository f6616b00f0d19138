"""The other side: asks an agent over MQTT and gives its answer as it comes.

Workflow: connect once, then ``stream`` or ``request`` as often as wanted, from any thread. Rules:
the client's name is a level of its topics, which the broker's access list may tie to its login.
Whether an agent is there is known from its retained status, where this client may read that, and
from the broker's word that nobody subscribes (MQTT 5).
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence

from edgewise.device.announcements import Status, parse_status
from edgewise.device.answer_stream import AnswerStream, Reconnected
from edgewise.device.broker_address import BrokerAddress, TlsFiles
from edgewise.device.connection import Connection
from edgewise.device.dialer import AUTO
from edgewise.device.errors import AgentAbsentError, DeviceError, RequestFailedError, WireError
from edgewise.device.outbox import Delivery, Outgoing
from edgewise.device.reply_messages import Final, Results, parse_reply
from edgewise.device.request_making import generation_request, texts_request
from edgewise.device.request_messages import DEFAULT_PRIORITY, AnyRequest, Cancel, Text
from edgewise.device.text_questions import TextQuestions
from edgewise.device.topics import (
    DEFAULT_ROOT,
    REQUEST,
    DeviceTopics,
    check_name,
    device_of,
    reply_filter,
    status_filter,
)
from edgewise.device.transport import ConnectOptions, Incoming, Subscription
from edgewise.device.verbs import CANCEL, GENERATE, TEXT_VERBS
from edgewise.runtime.options import GenerationOptions

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
DISCOVERY_SECONDS = 1.0  # in which the broker sends the retained status of every agent
SESSION_EXPIRY_SECONDS = 60  # how long replies are kept while the connection is down (MQTT 5)


class Requester(TextQuestions):
    """See the module's docstring. Use as a context manager."""

    def __init__(
        self,
        broker: str | BrokerAddress,
        *,
        client: str,
        root: str = DEFAULT_ROOT,
        protocol: str = AUTO,
        tls: TlsFiles | None = None,
    ) -> None:
        """Prepare; nothing is sent before ``start``.

        Args:
            broker: The broker's URL.
            client: This client's name, a level of its topics.
            root: What every topic begins with.
            protocol: ``"5"``, ``"3.1.1"``, or ``"auto"``.
            tls: Certificates, for ``mqtts``.

        Raises:
            DeviceError: If a name, the URL, the protocol or a certificate cannot be used.
        """
        address = BrokerAddress.parse(broker) if isinstance(broker, str) else broker
        self._root = root
        self._client = check_name(client, "client")
        self._changed = threading.Condition()
        self._statuses: dict[str, Status] = {}
        self._streams: dict[tuple[str, str], AnswerStream] = {}
        self._was_ready = False
        self._ready_at = 0.0
        self._status_subscription = Subscription(status_filter(root), qos=1, required=False)
        self._connection = Connection(
            address,
            ConnectOptions(
                f"{root}-{client}-{uuid.uuid4().hex[:12]}".replace("/", "-"),
                session_expiry_seconds=SESSION_EXPIRY_SECONDS,
            ),
            protocol=protocol,
            subscriptions=[
                Subscription(reply_filter(root, client), qos=1),
                self._status_subscription,
            ],
            tls=tls,
            on_message=self._on_message,
            on_ready=self._on_ready,
        )

    def __enter__(self) -> Requester:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnreachableError: If nothing answers.
            BrokerRefusedError: If the broker refuses the login, the certificate or a topic.
        """
        self._connection.start()
        try:
            self._connection.wait_until_ready(CONNECT_SECONDS, patient=False)
        except DeviceError:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect; requests that have not ended are not cancelled."""
        self._connection.close(forget_session=True)

    # Asking

    def stream(
        self,
        device: str,
        prompt: str | Sequence[Mapping[str, str]],
        options: GenerationOptions | None = None,
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_seconds: float = 120.0,
        request_id: str | None = None,
        even_if_offline: bool = False,
        images: Sequence[str | os.PathLike[str] | bytes] = (),
        task: str | None = None,
    ) -> AnswerStream:
        """Ask, and get the answer as it comes.

        Args:
            device: The agent's device.
            prompt: A text, or a conversation of {"role": ..., "content": ...}.
            options: How to generate; None: as the agent and the model have it by default.
            priority: 0 to 9; higher is served first.
            deadline_seconds: How long the answer is wanted.
            request_id: The request's id; None: a new one.
            even_if_offline: Send it also if the agent is known to be away; it may come back.
            images: What it is about, files or their contents, for a model that sees; as in
                ``VisionLanguageModel.stream``.
            task: What to do with the text, by a name that the agent's info lists, such as
                "translation-en-to-de".

        Returns:
            The answer: iterate over it for the text, then see its ``final``. The iteration raises
            ``AgentAbsentError``, ``DeviceBusyError`` or ``RequestFailedError``.

        Raises:
            AgentAbsentError: If no such agent is there.
            DeviceError: If the request breaks a rule.
        """
        request = generation_request(
            prompt,
            options,
            request_id=uuid.uuid4().hex if request_id is None else request_id,
            priority=priority,
            deadline_seconds=deadline_seconds,
            images=images,
            task=task,
        )
        return self._open(device, GENERATE, request, deadline_seconds, patient=even_if_offline)

    def _open(
        self,
        device: str,
        verb: str,
        request: AnyRequest,
        deadline_seconds: float,
        *,
        patient: bool = False,
    ) -> AnswerStream:
        """Prepare the answer to a request; iterating over it sends the request."""
        topics = DeviceTopics(self._root, device)
        correlation = uuid.uuid4().bytes
        if not patient:
            self._find_agent(device)
        wanted_until = time.monotonic() + deadline_seconds
        key = (device, request.id)

        def begin(stream: AnswerStream) -> None:
            with self._changed:
                self._streams[key] = stream
                status = self._statuses.get(device)
            if status is not None:
                stream.notice(status)

        def publish(verb: str, payload: bytes) -> Delivery:
            return self._connection.publish(
                Outgoing(
                    topics.request(self._client, verb),
                    payload,
                    qos=REQUEST.qos,
                    retain=REQUEST.retain,
                    expires_at=wanted_until,
                    response_topic=topics.reply(self._client, request.id),
                    correlation=correlation,
                )
            )

        def cancel() -> None:
            publish(CANCEL, Cancel(request.id).encode())

        def check() -> None:
            if self._connection.stopped is not None:
                raise self._connection.stopped

        def done() -> None:
            with self._changed:
                self._streams.pop(key, None)

        return AnswerStream(
            device,
            request,
            deadline_seconds=deadline_seconds,
            patient=patient,
            begin=begin,
            send=lambda: publish(verb, request.encode()),
            cancel=cancel,
            check=check,
            done=done,
        )

    def request(
        self,
        device: str,
        prompt: str | Sequence[Mapping[str, str]],
        options: GenerationOptions | None = None,
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_seconds: float = 120.0,
        images: Sequence[str | os.PathLike[str] | bytes] = (),
        task: str | None = None,
    ) -> Final:
        """Ask, and wait for the whole answer; see ``stream``.

        Raises:
            AgentAbsentError: If no such agent is there, or it went away.
            DeviceBusyError: If its queue is full.
            RequestFailedError: If it refuses, fails, or runs out of time.
        """
        stream = self.stream(
            device,
            prompt,
            options,
            priority=priority,
            deadline_seconds=deadline_seconds,
            images=images,
            task=task,
        )
        for _text in stream:
            pass
        if stream.final is None:
            raise RequestFailedError(f"{device} ended without an answer.")
        return stream.final

    def judge(
        self,
        device: str,
        verb: str,
        texts: Sequence[Text],
        *,
        top: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        deadline_seconds: float = 120.0,
    ) -> Results:
        """Ask about texts, and wait for the results as they stand in the reply.

        Args:
            device: The agent's device.
            verb: One of ``verbs.TEXT_VERBS``.
            texts: Texts, or pairs of texts.
            top: Labels of a text, or words for a mask, at most.
            priority: 0 to 9; higher is served first.
            deadline_seconds: How long the answer is wanted.

        Raises:
            AgentAbsentError: If no such agent is there, or it went away.
            DeviceBusyError: If its queue is full.
            RequestFailedError: If it refuses, fails, or runs out of time.
            DeviceError: If the request, or the answer, breaks a rule.
        """
        if verb not in TEXT_VERBS:
            raise DeviceError(f"The verb is {verb!r}; accepted: {', '.join(TEXT_VERBS)}.")
        request = texts_request(
            texts,
            top=top,
            request_id=uuid.uuid4().hex,
            priority=priority,
            deadline_seconds=deadline_seconds,
        )
        stream = self._open(device, verb, request, deadline_seconds)
        for _text in stream:
            pass
        if stream.results is None:
            raise RequestFailedError(f"{device} ended without results.")
        if len(stream.results.results) != len(request.texts):
            raise DeviceError(
                f"{device} gave {len(stream.results.results)} results for {len(request.texts)} "
                "texts; is it an agent of another version?"
            )
        return stream.results

    def devices(self, wait_seconds: float = DISCOVERY_SECONDS) -> dict[str, Status]:
        """Return the status of every agent on the broker, as far as this client may read it.

        Args:
            wait_seconds: How long after the connection to wait for what the broker has kept.
        """
        remaining = self._ready_at + wait_seconds - time.monotonic()
        with self._changed:
            if remaining > 0:
                self._changed.wait_for(lambda: False, timeout=remaining)
            return dict(self._statuses)

    def _find_agent(self, device: str) -> None:
        """Raise if the agent is known to be away; no status at all may mean we must not read it."""
        if self._status_subscription.refusal is not None:
            return
        with self._changed:
            self._changed.wait_for(
                lambda: device in self._statuses,
                timeout=max(0.0, self._ready_at + DISCOVERY_SECONDS - time.monotonic()),
            )
            status = self._statuses.get(device)
            online = [name for name, other in self._statuses.items() if other.state == "online"]
            readable = bool(self._statuses)
        if not readable or (status is not None and status.state == "online"):
            return
        known = f"Online: {', '.join(sorted(online)[:20])}." if online else "None is online."
        what = "is offline" if status is not None else "has never been seen on this broker"
        raise AgentAbsentError(f"The agent {device!r} {what}. {known}")

    # On the connection's thread

    def _on_ready(self) -> None:
        with self._changed:
            again, self._was_ready = self._was_ready, True
            self._ready_at = time.monotonic()
            streams = list(self._streams.values())
        if again:
            for stream in streams:
                stream.notice(Reconnected())

    def _on_message(self, message: Incoming) -> None:
        device = device_of(self._root, message.topic)
        if device is None:
            return
        try:
            if message.topic == f"{self._root}/{device}/status":
                self._notice_status(device, parse_status(message.payload))
            elif not message.retain:
                reply = parse_reply(message.payload)
                with self._changed:
                    stream = self._streams.get((device, reply.id))
                if stream is not None:
                    stream.notice(reply)
        except WireError as error:
            logger.warning("Ignored a message on %s: %s", message.topic, error)

    def _notice_status(self, device: str, status: Status) -> None:
        with self._changed:
            self._statuses[device] = status
            streams = [stream for (name, _), stream in self._streams.items() if name == device]
            self._changed.notify_all()
        for stream in streams:
            stream.notice(status)

"""One network connection to a broker, from CONNECT to its end. The only import of paho.

paho-mqtt serves as a protocol engine here: its own threads, reconnects and queues stay unused,
because they can die unseen, fight another client, resend a fatal message for ever and grow without
bound. Workflow: ``Link(...)``, ``open``, then ``pump`` again and again, with ``publish`` and
``subscribe`` between; when it ends, ``pump`` raises ``LinkLostError`` and the link is thrown away.

Rules: one thread uses a link; events come from inside ``open`` and ``pump``; an event handler must
be quick, and an exception from it is logged and counted, never the connection's end. paho's
exceptions and classes do not leave this file.
"""

from __future__ import annotations

import contextlib
import logging
import math
import selectors
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgewise.device.broker_address import BrokerAddress
from edgewise.device.errors import DeviceError, SessionTakenOverError
from edgewise.device.outbox import Outgoing
from edgewise.device.refusals import refused, unreachable
from edgewise.device.transport import (
    MAX_IN_FLIGHT,
    MQTT_3,
    MQTT_5,
    ConnectOptions,
    Incoming,
    LinkEvents,
    LinkLostError,
    NoAnswerError,
    Welcome,
)

logger = logging.getLogger(__name__)

_ENGINE_PROTOCOLS = {MQTT_5: paho.MQTTv5, MQTT_3: paho.MQTTv311}

NEVER = 0xFFFFFFFF  # MQTT 5: a session that does not expire

_KEEP_ALIVE_TIMEOUT = 141
_TAKEN_OVER = 142
_NO_SUBSCRIBERS = 16


def _properties(packet_type: int, values: Mapping[str, Any]) -> Properties | None:
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        return None
    properties = cast("Any", Properties)(packet_type)  # untyped in paho
    for name, value in given.items():
        setattr(properties, name, value)
    return cast("Properties", properties)


class Link:
    """One connection; see the module's docstring."""

    def __init__(
        self,
        address: BrokerAddress,
        options: ConnectOptions,
        protocol: str,
        tls: ssl.SSLContext | None,
        events: LinkEvents,
    ) -> None:
        self._address = address
        self._options = options
        self._protocol = protocol
        self._events = events
        self._welcome: Welcome | None = None
        self._refusal: DeviceError | None = None
        self._loss = "it broke without a word from the broker"
        self._taken_over = False
        self._client = self._new_client(tls)

    def _new_client(self, tls: ssl.SSLContext | None) -> paho.Client:
        is_5 = self._protocol == MQTT_5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._options.client_id,
            clean_session=None if is_5 else not self._options.kept_in_mqtt_3,
            protocol=_ENGINE_PROTOCOLS[self._protocol],
            reconnect_on_failure=False,
        )
        client.connect_timeout = self._options.connect_timeout_seconds
        client.max_inflight_messages = 0  # the owner counts: the broker's limit comes later
        if self._address.user is not None:
            client.username_pw_set(self._address.user, self._address.password)
        if tls is not None:
            client.tls_set_context(tls)
        will = self._options.will
        if will is not None:
            delay = will.delay_seconds or None
            properties = {"WillDelayInterval": delay, "PayloadFormatIndicator": 1} if is_5 else {}
            client.will_set(
                will.topic,
                will.payload,
                qos=1,
                retain=will.retain,
                properties=_properties(PacketTypes.WILLMESSAGE, properties),
            )
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        return client

    # What the owner calls

    def open(self, answer_timeout_seconds: float) -> Welcome:
        """Connect, and wait for the broker's answer.

        Args:
            answer_timeout_seconds: How long the answer may take once TCP and TLS stand.

        Raises:
            BrokerUnreachableError: If nothing answers.
            NoAnswerError: If something takes the connection and does not answer.
            ProtocolRefusedError: If the broker does not speak this protocol version.
            BrokerRefusedError: If it refuses us for another reason.
        """
        self._connect()
        deadline = time.monotonic() + answer_timeout_seconds
        while self._welcome is None and self._refusal is None:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or self._client.socket() is None:
                self.abandon()
                raise NoAnswerError(
                    f"{self._address} takes the connection, but gives no answer to MQTT "
                    f"{self._protocol}. Is it a broker, and is mqtt:// or mqtts:// right?"
                )
            with contextlib.suppress(LinkLostError):  # the reason has been noted by now
                self.pump(min(0.25, remaining), None)
        if self._refusal is not None:
            self.abandon()
            raise self._refusal
        if self._welcome is None:
            raise NoAnswerError(f"{self._address} closed the connection.")
        return self._welcome

    def _connect(self) -> None:
        connect_properties = None
        if self._protocol == MQTT_5:
            connect_properties = _properties(
                PacketTypes.CONNECT,
                {
                    "SessionExpiryInterval": self._options.session_expiry_seconds or None,
                    "ReceiveMaximum": self._options.receive_maximum,
                    "MaximumPacketSize": self._options.maximum_packet_bytes,
                },
            )
        try:
            self._client.connect(
                self._address.host,
                self._address.port,
                self._options.keepalive_seconds,
                clean_start=self._options.session_expiry_seconds == 0
                if self._protocol == MQTT_5
                else paho.MQTT_CLEAN_START_FIRST_ONLY,
                properties=connect_properties,
            )
        except (OSError, ValueError) as error:
            self.abandon()
            raise unreachable(self._address, self._options, error) from error

    def pump(self, timeout: float, wake: socket.socket | None) -> None:
        """Wait for the network, or for ``wake`` to become readable, and handle what came.

        Args:
            timeout: The longest wait, in seconds.
            wake: A socket that ends the wait; its content is the owner's to read.

        Raises:
            LinkLostError: If the connection has ended.
            SessionTakenOverError: If it has ended because another client has our client id.
        """
        connection = cast("socket.socket | None", self._client.socket())
        if connection is None:
            raise self._lost()
        try:
            readable, writable = self._wait(connection, timeout, wake)
            if readable:
                self._client.loop_read()
            if writable and self._client.socket() is not None:
                self._client.loop_write()
            if self._client.socket() is not None:
                self._client.loop_misc()
        except Exception as error:
            logger.exception("The MQTT connection is given up after an unexpected packet")
            self.abandon()
            raise LinkLostError("an unexpected packet") from error
        if self._client.socket() is None:
            raise self._lost()

    def _wait(
        self, connection: socket.socket, timeout: float, wake: socket.socket | None
    ) -> tuple[bool, bool]:
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            timeout = 0.0  # decrypted bytes wait in the TLS layer, where select cannot see them
        wanted = selectors.EVENT_READ
        if self._client.want_write():
            wanted |= selectors.EVENT_WRITE
        with selectors.DefaultSelector() as selector:
            selector.register(connection, wanted)
            if wake is not None:
                selector.register(wake, selectors.EVENT_READ)
            events = 0
            for key, mask in selector.select(timeout):
                if key.fileobj is connection:
                    events = mask
        readable = bool(events & selectors.EVENT_READ) or timeout == 0.0
        return readable, bool(events & selectors.EVENT_WRITE)

    @property
    def congested(self) -> bool:
        """Whether the network takes no more just now."""
        return self._client.want_write()

    def publish(self, message: Outgoing, now: float) -> int | None:
        """Send a message.

        Args:
            message: What to send.
            now: The monotonic clock, in seconds.

        Returns:
            The identifier that ``on_published`` will name, or None at QoS 0.

        Raises:
            LinkLostError: If the connection has ended.
        """
        welcome = self._welcome
        if welcome is None or self._client.socket() is None:
            raise self._lost()
        lifetime = message.lifetime_seconds
        if message.expires_at is not None:
            lifetime = message.expires_at - now
        properties = None
        if self._protocol == MQTT_5:
            properties = _properties(
                PacketTypes.PUBLISH,
                {
                    "PayloadFormatIndicator": 1,
                    "ContentType": "application/json",
                    "MessageExpiryInterval": None if lifetime is None else _seconds(lifetime),
                    "ResponseTopic": message.response_topic,
                    "CorrelationData": message.correlation,
                },
            )
        qos = min(message.qos, welcome.maximum_qos)
        info = self._client.publish(
            message.topic,
            message.payload,
            qos=qos,
            retain=message.retain and welcome.retain_available,
            properties=properties,
        )
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise self._lost()
        return info.mid if qos else None

    def subscribe(self, topic_filter: str, qos: int, *, skip_retained: bool) -> int:
        """Ask for the messages of a topic filter.

        Args:
            topic_filter: The filter.
            qos: The highest QoS to deliver with.
            skip_retained: Leave out what the broker has kept, and flag what it will keep (MQTT 5;
                in MQTT 3.1.1 it sends what it has kept, flagged).

        Returns:
            The identifier that ``on_subscribed`` will name.

        Raises:
            LinkLostError: If the connection has ended.
        """
        if self._protocol == MQTT_5:
            handling = (
                SubscribeOptions.RETAIN_DO_NOT_SEND
                if skip_retained
                else SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
            )
            # As published: the flag then also shows on a message that is being retained just now.
            options = cast("Any", SubscribeOptions)(
                qos=qos, retainAsPublished=skip_retained, retainHandling=handling
            )
            code, identifier = self._client.subscribe(topic_filter, options=options)
        else:
            code, identifier = self._client.subscribe(topic_filter, qos)
        if code != paho.MQTT_ERR_SUCCESS or identifier is None:
            raise self._lost()
        return identifier

    def close(self, *, forget_session: bool) -> None:
        """Say goodbye, so that the broker does not publish the last will.

        Args:
            forget_session: Have the broker forget the session at once (MQTT 5).
        """
        properties = None
        reason = None
        if forget_session and self._protocol == MQTT_5 and self._options.session_expiry_seconds:
            properties = cast("Any", Properties)(PacketTypes.DISCONNECT)
            properties.SessionExpiryInterval = 0
            reason = cast("Any", ReasonCode)(PacketTypes.DISCONNECT, identifier=0)
        try:
            self._client.disconnect(reason, properties)
            deadline = time.monotonic() + 1.0
            while self._client.socket() is not None and time.monotonic() < deadline:
                self.pump(0.05, None)
        except DeviceError:
            logger.debug("The connection ended while it was being closed")
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the socket without a goodbye."""
        connection = self._client.socket()
        if connection is not None:
            with contextlib.suppress(OSError):  # closing is all that is left to do
                connection.close()

    def _lost(self) -> DeviceError:
        if self._taken_over:
            return SessionTakenOverError(
                f"Another client has connected to {self._address} with the client id "
                f"{self._options.client_id!r}. Give one of the two another name."
            )
        return LinkLostError(f"The connection to {self._address} ended: {self._loss}.")

    # What paho calls

    def _on_socket_open(self, _client: paho.Client, _data: Any, connection: Any) -> None:
        # Without it a QoS 1 round trip takes 44 ms instead of 1: Nagle waits for delayed ACKs.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_connect(
        self, _client: paho.Client, _data: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.value == 0:
            in_flight = getattr(properties, "ReceiveMaximum", 65_535)
            self._welcome = Welcome(
                protocol=self._protocol,
                session_present=bool(flags.session_present),
                in_flight_maximum=min(MAX_IN_FLIGHT, in_flight),
                maximum_packet_bytes=getattr(properties, "MaximumPacketSize", None),
                maximum_qos=getattr(properties, "MaximumQoS", 2),
                retain_available=bool(getattr(properties, "RetainAvailable", 1)),
            )
            return
        self._refusal = refused(
            self._address, self._options, self._protocol, code=reason.value, reason=str(reason)
        )

    def _on_disconnect(
        self, _client: paho.Client, _data: Any, flags: Any, reason: Any, _properties: Any
    ) -> None:
        from_broker = flags.is_disconnect_packet_from_server
        if from_broker or reason.value == _KEEP_ALIVE_TIMEOUT:
            self._loss = str(reason).lower()
        self._taken_over = from_broker and reason.value == _TAKEN_OVER

    def _on_message(self, _client: paho.Client, _data: Any, message: Any) -> None:
        try:
            properties = message.properties
            self._events.on_message(
                Incoming(
                    topic=message.topic,
                    payload=bytes(message.payload),
                    qos=message.qos,
                    retain=bool(message.retain),
                    response_topic=getattr(properties, "ResponseTopic", None),
                    correlation=getattr(properties, "CorrelationData", None),
                    expiry_seconds=getattr(properties, "MessageExpiryInterval", None),
                )
            )
        except Exception:
            logger.exception("A message could not be handled; the connection goes on")
            self._events.on_fault()

    def _on_publish(
        self, _client: paho.Client, _data: Any, identifier: int, reason: Any, _properties: Any
    ) -> None:
        self._events.on_published(
            identifier,
            refusal=str(reason).lower() if reason.is_failure else None,
            no_subscribers=reason.value == _NO_SUBSCRIBERS,
        )

    def _on_subscribe(
        self,
        _client: paho.Client,
        _data: Any,
        identifier: int,
        reasons: Sequence[Any],
        _properties: Any,
    ) -> None:
        refused = [str(reason).lower() for reason in reasons if reason.is_failure]
        self._events.on_subscribed(identifier, refused[0] if refused else None)


def _seconds(lifetime: float) -> int:
    """Round a lifetime up to what MQTT can say; 0 would mean "expired already"."""
    return min(NEVER, max(1, math.ceil(lifetime)))

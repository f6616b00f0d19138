"""What a link to a broker and its owner say to each other, in types of our own.

Rules: nothing of an MQTT library shows here, so that only one file knows which one it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgewise.device.errors import BrokerRefusedError, BrokerUnreachableError, DeviceError

MQTT_5 = "5"
MQTT_3 = "3.1.1"
MAX_IN_FLIGHT = 20  # QoS 1 messages sent and not yet acknowledged, whatever the broker would allow


class LinkLostError(DeviceError):
    """The connection ended; another may be opened."""


class NoAnswerError(BrokerUnreachableError):
    """The address takes connections, but gives no MQTT answer in the protocol that was tried."""


class ProtocolRefusedError(BrokerRefusedError):
    """The broker does not speak the protocol version."""


@dataclass(frozen=True)
class Will:
    """What the broker publishes when this client vanishes.

    Attributes:
        topic: Where to.
        payload: The content.
        retain: Whether the broker keeps it.
        delay_seconds: How long the client may be away before (MQTT 5).
    """

    topic: str
    payload: bytes
    retain: bool = True
    delay_seconds: int = 0


@dataclass(frozen=True)
class ConnectOptions:
    """What a client tells the broker when it connects.

    Attributes:
        client_id: Names the session; two clients with one id throw each other out.
        keepalive_seconds: After one and a half times this without a sign the broker gives us up.
        session_expiry_seconds: How long the broker keeps subscriptions and messages for us while
            we are away (MQTT 5); 0: not at all.
        kept_in_mqtt_3: Whether it keeps them in MQTT 3.1.1, where a session has no expiry and
            stays until somebody cleans up.
        receive_maximum: How many QoS 1 messages the broker may send at once (MQTT 5).
        maximum_packet_bytes: The largest packet the broker may send (MQTT 5).
        will: The last will.
        connect_timeout_seconds: For name look-up, TCP, TLS and the broker's first answer, each.
    """

    client_id: str
    keepalive_seconds: int = 30
    session_expiry_seconds: int = 3600
    kept_in_mqtt_3: bool = False
    receive_maximum: int = 64
    maximum_packet_bytes: int = 1_048_576
    will: Will | None = None
    connect_timeout_seconds: float = 5.0


@dataclass(frozen=True)
class Welcome:
    """What the broker said when it took the connection.

    Attributes:
        protocol: ``MQTT_5`` or ``MQTT_3``.
        session_present: Whether it knew us: subscriptions are in place, messages may have waited.
        in_flight_maximum: How many QoS 1 messages may be unacknowledged.
        maximum_packet_bytes: The largest packet it takes; None: it does not say.
        maximum_qos: The highest QoS it takes.
        retain_available: Whether it keeps retained messages.
    """

    protocol: str
    session_present: bool
    in_flight_maximum: int
    maximum_packet_bytes: int | None
    maximum_qos: int
    retain_available: bool


@dataclass(frozen=True)
class Incoming:
    """A message from the broker. What only MQTT 5 has is None otherwise.

    Attributes:
        topic: Where it was published.
        payload: The content.
        qos: How it was delivered.
        retain: Whether it is an old message that the broker had kept.
        response_topic: Where the sender wants the answer.
        correlation: What the sender wants back with it.
        expiry_seconds: How long the message is still wanted.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_seconds: int | None = None


@dataclass
class Subscription:
    """A topic filter to receive.

    Attributes:
        topic_filter: The filter.
        qos: The highest QoS to deliver with.
        skip_retained: Leave out what the broker has kept.
        required: Whether the connection is of no use without it.
        refusal: Why the broker did not grant it, at the last try.
    """

    topic_filter: str
    qos: int = 1
    skip_retained: bool = False
    required: bool = True
    refusal: str | None = None


class LinkEvents(Protocol):
    """What a link tells its owner, on the owner's thread, from inside ``open`` and ``pump``."""

    def on_message(self, message: Incoming) -> None:
        """Take a message; the broker gets its acknowledgement after this returns."""

    def on_published(self, identifier: int, *, refusal: str | None, no_subscribers: bool) -> None:
        """The broker has a QoS 1 message, or refuses it for the reason given."""

    def on_subscribed(self, identifier: int, refusal: str | None) -> None:
        """The broker has taken a subscription, or refuses it for the reason given."""

    def on_fault(self) -> None:
        """A handler raised an exception, which has been logged."""

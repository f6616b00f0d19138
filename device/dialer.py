"""Opening links in the newest protocol that the broker speaks.

Rules: MQTT 5 first, 3.1.1 where the broker refuses 5 or does not answer to it (amqtt waits for ever
for the rest of what it takes for a longer 3.1.1 packet). What worked is kept for the next link; a
protocol that was asked for by name is never changed.
"""

from __future__ import annotations

import logging
import ssl

from edgewise.device.broker_address import BrokerAddress, TlsFiles
from edgewise.device.errors import DeviceError
from edgewise.device.mqtt import Link
from edgewise.device.transport import (
    MQTT_3,
    MQTT_5,
    ConnectOptions,
    LinkEvents,
    NoAnswerError,
    ProtocolRefusedError,
    Welcome,
)

logger = logging.getLogger(__name__)

AUTO = "auto"
PROTOCOLS = (AUTO, MQTT_5, MQTT_3)
FALL_BACK_SECONDS = 2.5  # without an answer to MQTT 5, before 3.1.1 is tried


class Dialer:
    """See the module's docstring."""

    def __init__(
        self,
        address: BrokerAddress,
        options: ConnectOptions,
        protocol: str,
        tls: TlsFiles | None,
    ) -> None:
        """Prepare.

        Args:
            address: The broker.
            options: What the broker is told.
            protocol: One of ``PROTOCOLS``.
            tls: Certificates, for an ``mqtts`` address.

        Raises:
            DeviceError: If the protocol is unknown, or TLS files are given without TLS or cannot
                be used.
        """
        if protocol not in PROTOCOLS:
            raise DeviceError(
                f"The MQTT protocol {protocol!r} is unknown; accepted: {', '.join(PROTOCOLS)}."
            )
        if tls is not None and tls != TlsFiles() and not address.tls:
            raise DeviceError(f"TLS files are given, but {address} is without TLS: use mqtts://.")
        self._address = address
        self._options = options
        self._fixed = protocol != AUTO
        self._protocol: str | None = protocol if self._fixed else None
        self._tls: ssl.SSLContext | None = (tls or TlsFiles()).context() if address.tls else None

    @property
    def protocol(self) -> str | None:
        """The protocol that is spoken, or was last; None before the first answer."""
        return self._protocol

    def open(self, events: LinkEvents) -> tuple[Link, Welcome]:
        """Open a link.

        Args:
            events: Takes what the link tells.

        Returns:
            The link and what the broker said.

        Raises:
            BrokerUnreachableError: If nothing answers.
            BrokerRefusedError: If the broker refuses us.
        """
        patience = self._options.connect_timeout_seconds
        if self._protocol is not None:
            try:
                return self._try(self._protocol, events, patience)
            except ProtocolRefusedError:
                if not self._fixed:
                    self._protocol = None  # the broker has been replaced by another kind
                raise
        try:
            return self._try(MQTT_5, events, FALL_BACK_SECONDS)
        except (ProtocolRefusedError, NoAnswerError) as error:
            logger.info("%s Trying MQTT %s.", error, MQTT_3)
        return self._try(MQTT_3, events, patience)

    def _try(self, protocol: str, events: LinkEvents, patience: float) -> tuple[Link, Welcome]:
        link = Link(self._address, self._options, protocol, self._tls, events)
        welcome = link.open(patience)
        self._protocol = protocol
        return link, welcome

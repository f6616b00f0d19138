"""What is said of a broker that can not be reached, or that refuses us: the cause, and what to do.

Rule: which error it is decides what becomes of the connection. Where nothing answers, or the broker
asks us to come back, trying again may help; where it refuses us, it does not.
"""

from __future__ import annotations

import socket
import ssl

from edgewise.device.broker_address import BrokerAddress
from edgewise.device.errors import BrokerRefusedError, BrokerUnreachableError, DeviceError
from edgewise.device.transport import ConnectOptions, ProtocolRefusedError

# Reason codes of CONNACK in MQTT 5.
_UNSUPPORTED_PROTOCOL = 132
_CLIENT_ID_REFUSED = 133
_CREDENTIALS_REFUSED = frozenset({134, 135})
_TRY_LATER = frozenset({136, 137, 156, 157, 159})


def unreachable(address: BrokerAddress, options: ConnectOptions, error: Exception) -> DeviceError:
    """Make the error for a connection that does not come about.

    Args:
        address: The broker.
        options: With how long was waited.
        error: What the network or TLS raised.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return BrokerRefusedError(
            f"The certificate of {address} is not trusted: {error.verify_message}. Give the "
            "file of the authority that signed it, and the host name that stands in it."
        )
    if isinstance(error, ssl.SSLError):
        return BrokerRefusedError(
            f"{address} does not complete the TLS handshake ({error.reason}). Does it speak "
            "TLS on this port, and does it want a client certificate?"
        )
    if isinstance(error, socket.gaierror):
        return BrokerUnreachableError(
            f"The host name of {address} is not known here. Check its spelling and the network."
        )
    if isinstance(error, ConnectionRefusedError):
        reason = "the connection is refused: nothing listens there"
    elif isinstance(error, TimeoutError):
        reason = f"no answer in {options.connect_timeout_seconds:g} seconds"
    else:
        reason = str(error)
    return BrokerUnreachableError(
        f"No MQTT broker can be reached at {address} ({reason}). "
        "Start the broker, or check host and port."
    )


def refused(
    address: BrokerAddress, options: ConnectOptions, protocol: str, *, code: int, reason: str
) -> DeviceError:
    """Make the error for a broker that answers and says no.

    Args:
        address: The broker.
        options: With the client id that it was told.
        protocol: What was spoken.
        code: MQTT 5's reason code; in MQTT 3.1.1 the one that means the same.
        reason: Its name.
    """
    if code == _UNSUPPORTED_PROTOCOL:
        return ProtocolRefusedError(f"{address} does not speak MQTT {protocol}.")
    if code in _CREDENTIALS_REFUSED:
        who = "no user name was given" if address.user is None else "user or password"
        return BrokerRefusedError(
            f"{address} refuses the login ({who}: {reason}). Give user and password in the "
            "broker's URL, as mqtt://user:password@host."
        )
    if code == _CLIENT_ID_REFUSED:
        return BrokerRefusedError(
            f"{address} refuses the client id {options.client_id!r}. Choose another name."
        )
    if code in _TRY_LATER:
        return BrokerUnreachableError(
            f"{address} takes no connection just now ({reason}). Try again later."
        )
    return BrokerRefusedError(f"{address} refuses the connection ({reason}).")

"""The address that a server listens on, and whether it may.

Rules: without keys only this machine may ask. Its browsers may not ask for the pages that they
show: a page elsewhere can have its name point at 127.0.0.1, so without keys the name that was asked
for (``Host``) must be one of this machine's own.
"""

from __future__ import annotations

import ipaddress
import socket

from edgewise.device.errors import DeviceError

BACKLOG = 128  # connections that the system holds before they are taken


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address can only be this machine."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """Return the name or address in a ``Host`` header, without the port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def listen(host: str, port: int, *, has_keys: bool) -> socket.socket:
    """Open the socket; from here on connections are taken, though not yet answered.

    Args:
        host: A name or an address of this machine.
        port: 0 for a free one.
        has_keys: Whether clients must show a key.

    Raises:
        DeviceError: The address can not be used, or would let anyone ask.
    """
    if not 0 <= port <= 65_535:
        raise DeviceError(f"the port is {port}; accepted: 1 to 65535, or 0 for a free one")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise DeviceError(
            f"{host!r} is no address of this machine ({error}); give one, such as 127.0.0.1"
        ) from error
    family, _, _, _, address = min(found, key=lambda item: item[0] != socket.AF_INET)
    if not has_keys and not is_loopback(str(address[0])):
        raise DeviceError(
            f"{host} can be reached from other machines, so that anyone could ask; give a key file "
            "(--key-file), or listen on 127.0.0.1"
        )
    try:
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
    except OSError as error:
        raise DeviceError(
            f"nothing can listen on {host}:{port} ({error.strerror}); give another --port"
        ) from error
    return opened


def url_of(opened: socket.socket) -> str:
    """Return the URL at which a socket is reached."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

"""Where the broker is and how to be sure of it: the URL and the TLS files.

Rules: ``mqtts`` always verifies the broker's certificate and host name; there is no switch to turn
that off. The password appears in no message and no ``repr``.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgewise.device.errors import DeviceError

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
_FORM = "mqtt://[user[:password]@]host[:port] or mqtts://... for TLS"


@dataclass(frozen=True)
class BrokerAddress:
    """A broker's address.

    Attributes:
        host: A name or an address.
        port: The TCP port.
        tls: Whether the connection is encrypted.
        user: The user name, or None.
        password: The password, or None.
    """

    host: str
    port: int
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> BrokerAddress:
        """Read a broker's URL.

        Args:
            url: ``mqtt://[user[:password]@]host[:port]`` or ``mqtts://...``; user and password are
                percent-encoded where they hold ``: / @ %``.

        Raises:
            DeviceError: If it has another form.
        """
        scheme, separator, _ = url.partition("://")
        if not separator or scheme not in DEFAULT_PORTS:
            shown = f"{scheme}://..." if separator else "one without mqtt:// in front"
            raise DeviceError(f"The broker's URL is {shown}; accepted: {_FORM}.")
        try:
            parts = urlsplit(url)
            port = DEFAULT_PORTS[scheme] if parts.port is None else parts.port
        except ValueError as error:
            raise DeviceError(f"The broker's URL cannot be read; accepted: {_FORM}.") from error
        if not parts.hostname or not 0 < port < 65536:
            raise DeviceError(f"The broker's URL names no host or no port; accepted: {_FORM}.")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise DeviceError(f"The broker's URL has something after the port; accepted: {_FORM}.")
        return cls(
            host=parts.hostname,
            port=port,
            tls=scheme == "mqtts",
            user=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


@dataclass(frozen=True)
class TlsFiles:
    """The certificates of a TLS connection, as PEM files.

    Attributes:
        authority: The certificate authority that signed the broker's certificate; None: those that
            the system trusts.
        certificate: This client's own certificate, where the broker asks for one.
        key: The private key of ``certificate``; None: it is in the same file.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Make the TLS context: certificate and host name verified, TLS 1.2 or newer.

        Raises:
            DeviceError: If a file cannot be read or is no certificate.
        """
        try:
            context = ssl.create_default_context(cafile=self.authority)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            given = [str(path) for path in (self.authority, self.certificate, self.key) if path]
            raise DeviceError(
                f"The TLS files cannot be used ({', '.join(given)}): {error}. "
                "Accepted: PEM files that this user may read."
            ) from error
        return context

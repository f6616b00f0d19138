"""The options with which a command reaches a broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgewise.cli.parameters import PATH

if TYPE_CHECKING:
    from edgewise.device import TlsFiles

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

URL_HELP = (
    "mqtt://[user[:password]@]host[:port], or mqtts://... for TLS. Keep a password off the command "
    "line: every option can stand in the environment (here {variable})."
)


def root_option(function: Decorated) -> Decorated:
    """Give a command the option --root."""
    return click.option(
        "--root", default="edgewise", show_default=True, help="What every topic begins with."
    )(function)


def protocol_option(function: Decorated) -> Decorated:
    """Give a command the option --protocol."""
    return click.option(
        "--protocol",
        type=click.Choice(["auto", "5", "3.1.1"]),
        default="auto",
        show_default=True,
        help="MQTT version; auto takes 5 where the broker speaks it.",
    )(function)


def tls_options(function: Decorated) -> Decorated:
    """Give a command the options --tls-ca, --tls-cert and --tls-key."""
    for name, text in (
        ("--tls-key", "Private key of --tls-cert, where it is not in the same file."),
        ("--tls-cert", "This client's certificate (PEM), where the broker asks for one."),
        (
            "--tls-ca",
            "Authority that signed the broker's certificate (PEM); default: the system's.",
        ),
    ):
        function = click.option(name, type=PATH, metavar="FILE", help=text)(function)
    return function


def tls_files(ca: Path | None, cert: Path | None, key: Path | None) -> TlsFiles | None:
    """Gather the TLS options; None where none was given.

    Raises:
        click.UsageError: There is a key without a certificate.
    """
    from edgewise.device import TlsFiles

    if key is not None and cert is None:
        raise click.UsageError("--tls-key is of no use without --tls-cert.")
    if ca is None and cert is None:
        return None
    return TlsFiles(authority=ca, certificate=cert, key=key)

"""What an agent says about itself, retained on its own topics: status, info and health.

Rules: the status carries the session, so that a late last will of an earlier run is known for what
it is. Everything here is for any reader: no paths, no user names, no addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgewise.common.strict_json import encode_object
from edgewise.device.errors import WireError
from edgewise.device.fields import VERSION, Fields, decode_message

MAX_ANNOUNCEMENT_BYTES = 65_536  # bytes
STATES = ("online", "offline")


@dataclass(frozen=True)
class Status:
    """Whether the agent is there.

    Attributes:
        state: ``online`` or ``offline``.
        session: Names one run of the agent; another run has another.
    """

    state: str
    session: str

    def encode(self) -> bytes:
        """Write the payload."""
        return encode_object({"v": VERSION, "status": self.state, "session": self.session})


def parse_status(payload: bytes) -> Status:
    """Read a status.

    Raises:
        WireError: If it breaks the protocol.
    """
    values = decode_message(payload, max_bytes=MAX_ANNOUNCEMENT_BYTES)
    fields = Fields(values, what="status")
    fields.version()
    status = Status(fields.choice("status", STATES), fields.text("session", max_length=64))
    fields.nothing_else()
    return status


@dataclass(frozen=True)
class Info:
    """What the agent runs.

    Attributes:
        device: The device's name.
        session: The run of the agent.
        verbs: What it can be asked.
        model: Id, architecture, parameters, recipe, profile; empty where the model says nothing.
        versions: Of Edgewise, Python and the runtime.
        limits: Bytes of a request, tokens, milliseconds, places in the queue.
    """

    device: str
    session: str
    verbs: tuple[str, ...]
    model: Mapping[str, Any]
    versions: Mapping[str, str]
    limits: Mapping[str, int]

    def encode(self) -> bytes:
        """Write the payload."""
        return encode_object(
            {
                "v": VERSION,
                "device": self.device,
                "session": self.session,
                "verbs": list(self.verbs),
                "model": dict(self.model),
                "versions": dict(self.versions),
                "limits": dict(self.limits),
            }
        )


def session_of(payload: bytes) -> str | None:
    """Return the session that an info or a status names, or None if it cannot be read."""
    try:
        values = decode_message(payload, max_bytes=MAX_ANNOUNCEMENT_BYTES)
    except WireError:
        return None
    session = values.get("session")
    return session if isinstance(session, str) else None


@dataclass(frozen=True)
class Health:
    """How the agent is doing, counted since it started.

    Attributes:
        session: The run of the agent.
        uptime_seconds: Since the start.
        slots: Requests for a text that can run at once.
        queue_depth: Requests that wait.
        running: Requests that run.
        answered: Requests answered with the status ``ok``.
        cut_short: Requests that were cancelled, timed out or interrupted.
        failed: Requests that went wrong.
        refused: Messages that were no valid request, or busy.
        reconnects: Times the connection was lost.
        faults: Exceptions that were caught where none was foreseen; the log has each.
        tokens_per_second: Of the last answer; None before the first.
        prompt_tokens: Tokens of the prompts of answered requests.
        reused_tokens: Of those, the ones that an earlier request had computed.
        rss_bytes: Memory held now; None where the system does not tell.
        peak_rss_bytes: The most memory held.
    """

    session: str
    uptime_seconds: float
    slots: int
    queue_depth: int
    running: int
    answered: int
    cut_short: int
    failed: int
    refused: int
    reconnects: int
    faults: int
    tokens_per_second: float | None
    prompt_tokens: int
    reused_tokens: int
    rss_bytes: int | None
    peak_rss_bytes: int

    def encode(self) -> bytes:
        """Write the payload."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return encode_object({"v": VERSION, **given})

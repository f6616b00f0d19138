"""Being online: saying so, and noticing when another agent has taken this one's place.

Two agents of one name have one client id, so each connection of one ends the other's. MQTT 5
brokers may tell the loser why; some just hang up. What tells in any case is the retained status:
after a lost connection it still names this agent's session, or a later one's. The later one wins.

Workflow, on the connection's thread: ``on_ready`` after each connection, ``on_lost`` after each
loss, ``on_status`` for each message on the own status topic; ``leave`` at the end. Rules: the first
connection announces at once; a later one first looks at the retained status, and announces unless
another agent is online there. A last will that comes late, of this run or an earlier one, is
corrected.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edgewise.device.announcements import Status, parse_status
from edgewise.device.errors import SessionTakenOverError, WireError
from edgewise.device.topics import DeviceTopics
from edgewise.device.transport import Incoming

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # in which the broker sends the retained status, if it has one


class Presence:
    """See the module's docstring."""

    def __init__(
        self,
        topics: DeviceTopics,
        session: str,
        *,
        publish: Callable[[Status], None],
        announce: Callable[[], None],
        on_superseded: Callable[[SessionTakenOverError], None],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Prepare.

        Args:
            topics: The device's topics.
            session: This run of the agent.
            publish: Publishes the status.
            announce: Publishes what goes with being online.
            on_superseded: Ends the agent's connection.
            look_seconds: How long to wait for the retained status.
        """
        self._topics = topics
        self._session = session
        self._publish = publish
        self._announce = announce
        self._on_superseded = on_superseded
        self._look_seconds = look_seconds
        self._lock = threading.RLock()
        self._was_online = False
        self._looking: threading.Timer | None = None
        self._left = False
        self._superseded = False
        self._retained: Status | None = None

    def on_ready(self) -> None:
        """Announce the agent, or first look whether it still may."""
        with self._lock:
            if self._left or self._superseded:
                return
            if not self._was_online:
                self._say_online()
            elif self._retained is not None:
                self._decide(self._retained)
            else:
                self._stop_looking()
                self._looking = threading.Timer(self._look_seconds, self._nothing_seen)
                self._looking.daemon = True
                self._looking.start()

    def on_lost(self) -> None:
        """Forget what the broker had kept; another agent may come now."""
        with self._lock:
            self._retained = None
            self._stop_looking()

    def on_status(self, message: Incoming) -> None:
        """Take a message on the own status topic."""
        try:
            status = parse_status(message.payload)
        except WireError as error:
            logger.warning("Ignored a message on %s: %s", message.topic, error)
            return
        with self._lock:
            if self._left or self._superseded or not self._was_online:
                return
            if message.retain:
                self._retained = status  # it may come before the connection is ready
                if self._looking is not None:
                    self._decide(status)
            elif status.state == "offline":
                self._say_online()

    def _decide(self, retained: Status) -> None:
        self._stop_looking()
        if retained.state == "online" and retained.session != self._session:
            self._superseded = True
            self._on_superseded(
                SessionTakenOverError(
                    f"Another agent named {self._topics.device!r} has taken this one's place. "
                    "Give one of the two another name."
                )
            )
        else:
            self._say_online()

    def leave(self) -> None:
        """Say that the agent goes, unless another has its place."""
        with self._lock:
            self._stop_looking()
            if self._was_online and not self._superseded:
                self._publish(Status("offline", self._session))
            self._left = True

    def _nothing_seen(self) -> None:
        with self._lock:
            if self._looking is not None and not self._left:
                self._looking = None
                self._say_online()

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _say_online(self) -> None:
        self._was_online = True
        self._publish(Status("online", self._session))
        self._announce()

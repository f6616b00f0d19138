"""Being online: saying so, and noticing when another agent has taken this one's place.

Two agents of one name have one client id, so each connection of one ends the other's. MQTT 5
brokers may tell the loser why; some just hang up, and a last will then hides who was online. What
tells in any case is the retained info, which names the session that announced itself last. If that
is another's, and this agent is thrown out again and again before it has announced itself anew, the
other lives, and this one ends. (Once is not enough: a broker that was killed may come back with an
old info of an earlier run.)

Workflow, on the connection's thread: ``on_ready`` after each connection, ``on_lost`` after each
loss, ``on_info`` and ``on_status`` for each message on the own topics; ``leave`` at the end. Rules:
the first connection announces at once, a later one as soon as the retained info is known to be its
own, or after ``LOOK_SECONDS``. A last will that comes late, of this run or another, is corrected.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edgewise.device.announcements import Status, parse_status, session_of
from edgewise.device.errors import SessionTakenOverError, WireError
from edgewise.device.topics import DeviceTopics
from edgewise.device.transport import Incoming

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # in which the broker sends the retained info, and a rival comes back
MAX_STRIKES = 3  # connections in a row that find another's info before this agent gives way


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
            look_seconds: See ``LOOK_SECONDS``.
        """
        self._topics = topics
        self._session = session
        self._publish = publish
        self._announce = announce
        self._on_superseded = on_superseded
        self._look_seconds = look_seconds
        self._lock = threading.RLock()
        self._announced = False  # over the present connection
        self._was_online = False
        self._looking: threading.Timer | None = None
        self._gone = False
        self._last_session: str | None = None
        self._strikes = 0

    def on_ready(self) -> None:
        """Announce the agent, or first look whether it still may."""
        with self._lock:
            if self._gone:
                return
            if not self._was_online or self._last_session == self._session:
                self._say_online()
            else:
                self._start_looking()
                if self._last_session is not None:
                    self._strike()

    def on_lost(self) -> None:
        """Forget what the broker had kept; another agent may come now."""
        with self._lock:
            self._announced = False
            self._last_session = None
            self._stop_looking()

    def on_info(self, message: Incoming) -> None:
        """Take a message on the own info topic: what the broker had kept tells."""
        session = session_of(message.payload)
        with self._lock:
            if self._gone or not message.retain or session is None:
                return
            self._last_session = session  # it may come before the connection is ready
            if self._looking is None:
                return
            if session == self._session:
                self._say_online()
            else:
                self._strike()

    def on_status(self, message: Incoming) -> None:
        """Take a message on the own status topic."""
        try:
            status = parse_status(message.payload)
        except WireError as error:
            logger.warning("Ignored a message on %s: %s", message.topic, error)
            return
        with self._lock:
            if self._announced and not self._gone and status.state == "offline":
                self._say_online()

    def _strike(self) -> None:
        self._strikes += 1
        if self._strikes >= MAX_STRIKES:
            self._stop_looking()
            self._gone = True
            self._on_superseded(
                SessionTakenOverError(
                    f"Another agent named {self._topics.device!r} has taken this one's place. "
                    "Give one of the two another name."
                )
            )

    def leave(self) -> None:
        """Say that the agent goes, unless another has its place."""
        with self._lock:
            self._stop_looking()
            if self._announced and not self._gone:
                self._publish(Status("offline", self._session))
            self._gone = True

    def _start_looking(self) -> None:
        self._stop_looking()
        self._looking = threading.Timer(self._look_seconds, self._undisturbed)
        self._looking.daemon = True
        self._looking.start()

    def _undisturbed(self) -> None:
        with self._lock:
            if self._looking is not None and not self._gone:
                self._say_online()

    def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _say_online(self) -> None:
        self._stop_looking()
        self._strikes = 0
        self._announced = self._was_online = True
        self._publish(Status("online", self._session))
        self._announce()

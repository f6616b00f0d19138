"""One request from the requester's side: sent, awaited, and put together.

Workflow: iterate to get the text as it comes; when the iteration has ended, ``final`` is there, or
``results`` where texts were judged.
Rules: the request is sent again after a lost connection and after a silence at the beginning (the
agent knows it by its id and does not run it twice); leaving the iteration early cancels it;
whatever does not end in an answer ends in one clear exception.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias

from edgewise.device.announcements import Status
from edgewise.device.assembly import Assembly
from edgewise.device.errors import (
    AgentAbsentError,
    DeviceBusyError,
    DeviceError,
    RequestFailedError,
)
from edgewise.device.outbox import Delivery
from edgewise.device.reply_messages import (
    Accepted,
    Busy,
    Chunk,
    Failure,
    Final,
    Reply,
    Results,
)
from edgewise.device.request_messages import AnyRequest

logger = logging.getLogger(__name__)

FIRST_REPLY_SECONDS = 10.0  # of silence, after which the request is sent again, once
OFFLINE_GRACE_SECONDS = 10.0  # an agent may lose its connection and come back
LATE_SECONDS = 10.0  # how long after the deadline the agent may still say so
PUBLISH_SECONDS = 10.0  # until the broker has the request
POLL_SECONDS = 1.0  # how often the connection is looked at


@dataclass(frozen=True)
class Reconnected:
    """The requester has a new connection; replies may have been lost."""


Event: TypeAlias = Reply | Status | Reconnected


class AnswerStream:
    """The answer to one request; iterate over it once."""

    def __init__(
        self,
        device: str,
        request: AnyRequest,
        *,
        deadline_seconds: float,
        patient: bool,
        begin: Callable[[AnswerStream], None],
        send: Callable[[], Delivery],
        cancel: Callable[[], None],
        check: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        """Prepare; the request is sent when the iteration begins.

        Args:
            device: Who is asked, for messages.
            request: What is asked.
            deadline_seconds: How long the answer is wanted.
            patient: Wait until the deadline also for an agent that is away or silent.
            begin: Called before the request is sent: from now on this stream takes its replies.
            send: Publishes the request.
            cancel: Publishes its cancel.
            check: Raises if the connection has stopped for good.
            done: Called when nothing more is awaited.
        """
        self.final: Final | None = None
        self.results: Results | None = None
        self.request = request
        self._device = device
        self._deadline_seconds = deadline_seconds
        self._patient = patient
        self._begin = begin
        self._send = send
        self._cancel = cancel
        self._check = check
        self._done = done
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._assembly = Assembly()
        self._answered = False
        self._refused = False
        self._begun = False
        self._session: str | None = None
        self._offline_at: float | None = None

    def __iter__(self) -> Generator[str, None, None]:
        # Nothing else refers to the generator, so that a loop that is left closes it at once.
        if self._begun:
            raise RuntimeError("an AnswerStream can be iterated over once only")
        self._begun = True
        return self._run()

    def notice(self, event: Event) -> None:
        """Take what arrived for this request; any thread may."""
        self._inbox.put(event)

    @property
    def _ended(self) -> bool:
        return self.final is not None or self.results is not None

    def cancel(self) -> None:
        """Ask the agent to stop; the iteration then ends with what there is."""
        self._cancel()

    def _run(self) -> Generator[str, None, None]:
        self._begin(self)
        try:
            yield from self._receive()
        finally:
            if not self._ended and not self._refused:
                self._cancel_quietly()
            self._done()

    def _cancel_quietly(self) -> None:
        try:
            self._cancel()
        except DeviceError as error:  # another exception is on its way already
            logger.info("The request could not be cancelled: %s", error)

    def _receive(self) -> Generator[str, None, None]:
        started = time.monotonic()
        give_up = started + self._deadline_seconds + LATE_SECONDS
        self._publish()
        ask_again = started + FIRST_REPLY_SECONDS
        asked_again = False
        while not self._ended:
            now = time.monotonic()
            self._check()
            if now >= give_up:
                raise self._silence("until its deadline")
            if not self._patient and self._offline_since(now) > OFFLINE_GRACE_SECONDS:
                raise AgentAbsentError(f"{self._device} went offline before it had answered.")
            if not self._answered and now >= ask_again and not (self._patient and asked_again):
                if asked_again:
                    raise self._silence(f"in {2 * FIRST_REPLY_SECONDS:g} seconds")
                asked_again = True
                ask_again = now + FIRST_REPLY_SECONDS
                self._publish()
            try:
                event = self._inbox.get(timeout=min(POLL_SECONDS, max(0.0, give_up - now)))
            except queue.Empty:
                continue
            text = self._handle(event)
            if text:
                yield text
        if self.final is not None and self.final.status in {"timeout", "interrupted"}:
            raise RequestFailedError(
                f"{self._device} ended the answer early: {self.final.status}.",
                partial_text=self.final.text,
            )

    def _offline_since(self, now: float) -> float:
        return 0.0 if self._offline_at is None else now - self._offline_at

    def _silence(self, how_long: str) -> AgentAbsentError:
        return AgentAbsentError(
            f"{self._device} has not answered {how_long}. Does its agent run, and may "
            "this client read its own reply topic?"
        )

    def _publish(self) -> None:
        delivery = self._send()
        if delivery.wait(PUBLISH_SECONDS) and delivery.no_subscribers and not self._patient:
            raise AgentAbsentError(
                f"No agent named {self._device} listens on this broker. Check the name and the "
                "root, and that the agent runs."
            )

    def _handle(self, event: Event) -> str:
        if isinstance(event, Reconnected):
            self._publish()
            return ""
        if isinstance(event, Status):
            self._notice_status(event)
            return ""
        self._answered = True
        match event:
            case Accepted():
                return ""
            case Chunk():
                return self._assembly.add(event)
            case Results():
                self.results = event
                return ""
            case Final():
                text = self._assembly.finish(event)
                self.final = event
                return text
            case Busy():
                self._refused = True
                raise DeviceBusyError(
                    f"{self._device} is busy ({event.queue_depth} requests wait); try again in "
                    f"{event.retry_after_ms / 1000:g} seconds.",
                    code=429,
                    retry_after_ms=event.retry_after_ms,
                    queue_depth=event.queue_depth,
                )
            case Failure():
                self._refused = True
                raise RequestFailedError(
                    f"{self._device} answers {event.code}: {event.message}",
                    code=event.code,
                    partial_text=self._assembly.text,
                )

    def _notice_status(self, status: Status) -> None:
        if status.state == "offline":
            self._offline_at = time.monotonic() if self._offline_at is None else self._offline_at
            return
        self._offline_at = None
        if self._session is None or status.session == self._session:
            self._session = status.session
            return
        # Another run of the agent, which may never have seen the request.
        self._session = status.session
        if self._assembly.text:
            raise AgentAbsentError(f"{self._device} was restarted while it answered.")
        self._publish()

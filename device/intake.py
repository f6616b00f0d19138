"""What becomes of each message to an agent: a job, a cancel, a replay, or a refusal.

Workflow, on the connection's thread and therefore quick: topic, retained flag, payload, response
topic, limits, ledger, line. When ``handle`` returns, the broker gets its acknowledgement; by then
the ledger has the request. Rules: retained requests are ignored, since they would run again at
every restart; every other request gets an answer, also one that cannot be read; nothing here waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from edgewise.device.abilities import Abilities
from edgewise.device.active_jobs import ActiveJobs
from edgewise.device.agent_settings import AgentSettings
from edgewise.device.errors import WireError
from edgewise.device.job import Job
from edgewise.device.ledger import Entry, Key, Ledger, Standing
from edgewise.device.memory_guard import MemoryGuard
from edgewise.device.replier import LATE_SECONDS, Replier, ReplyAddress
from edgewise.device.reply_messages import Accepted, Busy, End, ErrorCode, Failure, Final, Usage
from edgewise.device.reply_stream import ReplyStream
from edgewise.device.request_messages import (
    AnyRequest,
    parse_cancel,
    parse_texts_request,
    request_id_of,
)
from edgewise.device.tally import Tally
from edgewise.device.topics import UNREADABLE_ID, DeviceTopics, RequestTopic
from edgewise.device.transport import Incoming
from edgewise.device.verbs import CANCEL, GENERATE, TASKS
from edgewise.device.waiting_line import WaitingLine

logger = logging.getLogger(__name__)

MAX_CANCEL_SECONDS = 600.0  # how long the cancel of a request that has not come is remembered


class Intake:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        topics: DeviceTopics,
        settings: AgentSettings,
        ledger: Ledger,
        line: WaitingLine,
        active: ActiveJobs,
        tally: Tally,
        replier: Replier,
        verbs: Sequence[str],
        abilities: Abilities,
        on_new_deadline: Callable[[], None],
        memory: MemoryGuard,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect the parts.

        Args:
            topics: The device's topics.
            settings: The limits.
            ledger: Which requests have been seen.
            line: Where jobs wait for the model.
            active: Where jobs are found until they end.
            tally: Counts.
            replier: Sends replies.
            verbs: What the model can be asked.
            abilities: What it can be asked for beside a text.
            on_new_deadline: Called when there is a job whose deadline must be watched.
            memory: Refuses requests while there is too little.
            clock: In seconds.
        """
        self._topics = topics
        self._settings = settings
        self._ledger = ledger
        self._line = line
        self._active = active
        self._tally = tally
        self._replier = replier
        self._verbs = tuple(verbs)
        self._abilities = abilities
        self._on_new_deadline = on_new_deadline
        self._memory = memory
        self._clock = clock
        self.stopping = False

    def handle(self, message: Incoming) -> None:
        """Take one message; see the module's docstring."""
        topic = self._topics.parse_request(message.topic)
        if topic is None:
            logger.info("Ignored a message on %s, which is no request topic", message.topic)
            return
        if message.retain:
            logger.info("Ignored a retained request on %s", message.topic)
            self._tally.refuse()
            return
        try:
            self._carry_out(topic, message)
        except WireError as error:
            logger.info("Refused a message on %s: %s", message.topic, error)
            self._tally.refuse()
            request_id = error.request_id or UNREADABLE_ID
            address = ReplyAddress(
                self._topics.reply(topic.client, request_id),
                message.correlation,
                self._clock() + LATE_SECONDS,
            )
            self._replier.send(Failure(request_id, error.code, str(error)), address)

    def _carry_out(self, topic: RequestTopic, message: Incoming) -> None:
        if topic.verb in self._verbs:
            self._take_in(topic, message)
        elif topic.verb == CANCEL:
            self._cancel(topic.client, message)
        else:
            known = "is none of its model's" if topic.verb in TASKS else "is unknown"
            raise WireError(
                f"This agent cannot be asked to {topic.verb}, which {known}; it can be asked to: "
                f"{', '.join((*self._verbs, CANCEL))}.",
                request_id=request_id_of(message.payload),
                code=ErrorCode.UNSUPPORTED,
            )

    # Requests

    def _take_in(self, topic: RequestTopic, message: Incoming) -> None:
        request = self._read(topic.verb, message.payload)
        client = topic.client
        reply_topic = self._topics.reply_for(client, request.id, message.response_topic)
        lifetime = self._lifetime(request, message)
        arrived_at = self._clock()
        address = ReplyAddress(reply_topic, message.correlation, arrived_at + lifetime)
        key = Key(client, request.id)
        entry = Entry(key, topic.verb, request.encode(), reply_topic, message.correlation, lifetime)
        verdict = self._ledger.open(entry)
        if verdict.standing is Standing.CONFLICT:
            raise WireError(
                "This id belongs to another request; choose a new one for each.",
                request_id=request.id,
                code=ErrorCode.CONFLICT,
            )
        if verdict.outcome is not None:
            self._replier.send_again(verdict.outcome, address)
        elif verdict.standing is Standing.OPEN:
            self._accept(request, address)
        else:
            self._take(key, topic.verb, request, address, arrived_at)

    def _read(self, verb: str, payload: bytes) -> AnyRequest:
        if verb != GENERATE:
            return parse_texts_request(payload)
        request = self._abilities.read(payload)
        limit = self._settings.max_tokens
        if request.max_tokens is not None and request.max_tokens > limit:
            raise WireError(
                f"The field 'max_tokens' is {request.max_tokens}; this agent makes up to {limit}.",
                request_id=request.id,
            )
        return request

    def _lifetime(self, request: AnyRequest, message: Incoming) -> float:
        limits = [self._settings.max_deadline_seconds]
        if request.deadline_ms is not None:
            limits.append(request.deadline_ms / 1000)
        if message.expiry_seconds is not None:
            limits.append(float(message.expiry_seconds))
        return min(limits)

    def _take(
        self,
        key: Key,
        verb: str,
        request: AnyRequest,
        address: ReplyAddress,
        arrived_at: float,
    ) -> None:
        refusal = self._no_place(request)
        if refusal is not None:
            self._ledger.forget(key)
            self._tally.refuse()
            self._replier.send(refusal, address)
            return
        job = Job(
            key=key,
            verb=verb,
            request=request,
            replies=ReplyStream(
                request.id,
                streamed=request.stream,
                send_chunk=lambda chunk: self._replier.send(chunk, address),
                send_end=lambda end: self._end(key, end, address),
                interval_seconds=self._settings.chunk_interval_seconds,
                clock=self._clock,
            ),
            arrived_at=arrived_at,
            deadline=address.deadline,
        )
        self._accept(request, address)
        self._active.add(job)
        if self._line.put(job):
            self._on_new_deadline()
        else:  # closed in this moment
            job.replies.settle(lambda _text, _chunks: _stopping(request.id))

    def _no_place(self, request: AnyRequest) -> Failure | Busy | None:
        """Say why there is no place. Only this thread fills the line: a place found here stays."""
        if self.stopping:
            return _stopping(request.id)
        depth = len(self._line)
        if depth >= self._settings.queue_size:
            return Busy(request.id, self._tally.retry_after_ms(depth), depth)
        return self._memory.refusal(request.id)

    def _accept(self, request: AnyRequest, address: ReplyAddress) -> None:
        if request.stream:  # without, clients that know one answer to a question get just that
            self._replier.send(Accepted(request.id, len(self._line)), address)

    def _end(self, key: Key, end: End, address: ReplyAddress) -> None:
        """Record an end before it is sent: a repeat must find it, whatever becomes of sending."""
        job = self._active.remove(key)
        started = None if job is None else job.started_at
        self._tally.end(end, None if started is None else self._clock() - started)
        self._ledger.settle(key, end.encode())
        if isinstance(end, Failure):
            how = f"{end.code} {end.message}"
        else:
            how = end.status if isinstance(end, Final) else "ok"
        logger.info("Request %s of %s: %s", key.request_id, key.client, how)
        if not self._replier.send(end, address):
            failure = Failure(
                key.request_id,
                ErrorCode.TOO_LARGE,
                "The answer is larger than the broker takes; ask for fewer tokens or texts.",
            )
            self._ledger.settle(key, failure.encode())
            self._replier.send(failure, address)

    # Cancels

    def _cancel(self, client: str, message: Incoming) -> None:
        cancel = parse_cancel(message.payload)
        reply_topic = self._topics.reply_for(client, cancel.id, message.response_topic)
        key = Key(client, cancel.id)
        job = self._active.get(key)
        if job is not None:
            self.settle(job, "cancelled")
            return
        nothing = Final(cancel.id, "cancelled", text="", n_chunks=0, usage=Usage()).encode()
        lifetime = min(MAX_CANCEL_SECONDS, self._settings.max_deadline_seconds)
        verdict = self._ledger.forbid(key, nothing, lifetime)
        outcome = nothing if verdict.standing is Standing.NEW else verdict.outcome
        if outcome is not None:
            address = ReplyAddress(reply_topic, message.correlation, self._clock() + lifetime)
            self._replier.send_again(outcome, address)

    def settle(self, job: Job, status: str) -> None:
        """End a job from outside, with what it has so far; any thread may.

        Args:
            job: The job; nothing happens if it has ended.
            status: ``cancelled``, ``timeout`` or ``interrupted``.
        """
        job.replies.settle(
            lambda text, chunks: Final(
                id=job.request.id,
                status=status,
                text=text,
                n_chunks=chunks,
                usage=job.usage(self._clock()),
            )
        )
        job.cancellation.cancel()
        self._line.drop_settled()


def _stopping(request_id: str) -> Failure:
    return Failure(request_id, ErrorCode.STOPPING, "The agent is shutting down; try again later.")

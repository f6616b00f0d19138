"""The wire: every message between a requester and an agent, as a frozen type.

Workflow: ``encode`` writes a message's payload; ``parse_request``, ``parse_cancel`` and
``parse_reply`` read one. Rules: each message carries ``"v": 1``; unknown fields are refused; what a
request leaves out is the agent's and the model's default. The last reply to a request, and only
it, has ``"fin": true``. No message says who sends it: the topic does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias, TypeVar

from edgewise.common.strict_json import encode_object
from edgewise.device.errors import WireError
from edgewise.device.fields import VERSION, Fields, decode_message

MAX_REQUEST_BYTES = 131_072  # bytes of one request's payload
MAX_REPLY_BYTES = 1_048_576  # bytes of one reply's payload
MAX_TEXT_LENGTH = MAX_REQUEST_BYTES  # characters of a prompt or a chat message
MAX_CHAT_MESSAGES = 256  # turns in one request
MAX_TOKENS = 65_536  # tokens one request may ask for; the agent's own limit may be lower
MAX_DEADLINE_MS = 86_400_000  # milliseconds: a day
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256  # characters
MAX_SEED = 2**63 - 1
MAX_COUNT = 2**53 - 1  # the largest whole number that every JSON reader keeps exact
MAX_NUMBER = float(MAX_COUNT)
DEFAULT_PRIORITY = 5
HIGHEST_PRIORITY = 9  # 0 is the lowest

Number = TypeVar("Number", int, float)

ROLES = ("system", "user", "assistant")
FINAL_STATUSES = ("ok", "cancelled", "timeout", "interrupted")
FINISH_REASONS = ("stop", "length")


class ErrorCode(IntEnum):
    """Why a request is not fulfilled; the numbers mean what they mean in HTTP."""

    INVALID = 400  # the payload breaks the protocol, or the model cannot take it
    FORBIDDEN_TOPIC = 403  # the response topic is not the sender's own
    CONFLICT = 409  # the id is in use for another payload
    TOO_LARGE = 413  # the request, or the answer, is over the limit
    BUSY = 429  # the queue is full
    FAILED = 500  # generating went wrong; the agent's log says why
    UNSUPPORTED = 501  # the verb is none of the agent's
    STOPPING = 503  # the agent is shutting down


RETRYABLE = frozenset({ErrorCode.BUSY, ErrorCode.STOPPING})


def _payload(**fields: Any) -> bytes:
    given = {name: value for name, value in fields.items() if value is not None}
    return encode_object({"v": VERSION, **given})


def sha256_of_text(text: str) -> str:
    """Return the SHA-256 of ``text`` in UTF-8, as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation: who speaks (one of ``ROLES``) and what is said."""

    role: str
    content: str


@dataclass(frozen=True)
class Request:
    """Generate text from a prompt or a conversation. None: the agent's or model's default.

    Attributes:
        id: Chosen by the sender, new for each request; a repeat of it is the same request.
        prompt: The prompt; exactly one of ``prompt`` and ``messages`` is given.
        messages: The conversation so far.
        max_tokens: The most tokens to generate.
        temperature: 0 picks the likeliest token each time.
        top_k: Choose among the k likeliest tokens; 0 means all.
        top_p: Choose among the likeliest tokens that hold this share of the probability.
        min_p: Leave out tokens less likely than this share of the likeliest one's probability.
        repetition_penalty: Over 1 makes tokens that have been used less likely.
        seed: Makes sampling repeatable.
        stop: Texts that end the answer.
        raw: Feed the prompt without the model's chat template.
        beams: Over 1 searches for the likeliest answer with as many beams, without sampling.
        beam_groups: Groups of beams that avoid each other's tokens.
        diversity_penalty: How much groups avoid them.
        length_penalty: Answers are ranked by log-probability / tokens ** length_penalty.
        priority: 0 to 9; higher is taken from the queue first.
        deadline_ms: After this many milliseconds from its arrival nobody wants the answer.
        stream: Send the text in chunks as it is made. Without, the final is the only reply.
    """

    id: str
    prompt: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    raw: bool = False
    beams: int = 1
    beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    priority: int = DEFAULT_PRIORITY
    deadline_ms: int | None = None
    stream: bool = True

    def encode(self) -> bytes:
        """Write the payload; what has its default value is left out."""
        chat = None
        if self.messages is not None:
            chat = [{"role": turn.role, "content": turn.content} for turn in self.messages]
        return _payload(
            id=self.id,
            prompt=self.prompt,
            messages=chat,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stop=list(self.stop) or None,
            raw=self.raw or None,
            beams=None if self.beams == 1 else self.beams,
            beam_groups=None if self.beam_groups == 1 else self.beam_groups,
            diversity_penalty=self.diversity_penalty or None,
            length_penalty=None if self.length_penalty == 1 else self.length_penalty,
            priority=None if self.priority == DEFAULT_PRIORITY else self.priority,
            deadline_ms=self.deadline_ms,
            stream=None if self.stream else False,
        )


@dataclass(frozen=True)
class Cancel:
    """Stop the request of that id, queued or running, or refuse it should it still arrive."""

    id: str

    def encode(self) -> bytes:
        """Write the payload."""
        return _payload(id=self.id)


@dataclass(frozen=True)
class Accepted:
    """The request waits or runs; ``queue_depth`` requests are before it."""

    id: str
    queue_depth: int

    def encode(self) -> bytes:
        """Write the payload."""
        return _payload(id=self.id, fin=False, status="accepted", queue_depth=self.queue_depth)


@dataclass(frozen=True)
class Chunk:
    """A part of the answer; ``seq`` counts from 0."""

    id: str
    seq: int
    text: str

    def encode(self) -> bytes:
        """Write the payload."""
        return _payload(id=self.id, seq=self.seq, text=self.text, fin=False)


@dataclass(frozen=True)
class Usage:
    """What an answer took; None where it is not known.

    Attributes:
        prompt_tokens: Tokens of the prompt, template included.
        generated_tokens: Tokens generated.
        queue_ms: Milliseconds in the queue.
        time_to_first_token_ms: Milliseconds from the start of the work to the first token.
        total_ms: Milliseconds from the request's arrival to its end.
        tokens_per_second: Generated tokens a second after the first.
        peak_rss_bytes: The most memory the agent's process has held, in bytes.
    """

    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    queue_ms: float | None = None
    time_to_first_token_ms: float | None = None
    total_ms: float | None = None
    tokens_per_second: float | None = None
    peak_rss_bytes: int | None = None


@dataclass(frozen=True)
class Final:
    """The end of an answer, with the whole text, so that lost chunks cost nothing.

    Attributes:
        id: The request's id.
        status: One of ``FINAL_STATUSES``.
        text: Everything that was generated.
        n_chunks: How many chunks were sent before.
        usage: What it took.
        finish_reason: ``stop`` (the model or a stop text ended it) or ``length``; None if cut off.
    """

    id: str
    status: str
    text: str
    n_chunks: int
    usage: Usage
    finish_reason: str | None = None

    def encode(self) -> bytes:
        """Write the payload, with the SHA-256 of the text."""
        usage = {name: value for name, value in vars(self.usage).items() if value is not None}
        return _payload(
            id=self.id,
            fin=True,
            status=self.status,
            text=self.text,
            n_chunks=self.n_chunks,
            sha256=sha256_of_text(self.text),
            finish_reason=self.finish_reason,
            usage=usage,
        )


@dataclass(frozen=True)
class Busy:
    """The queue is full: nothing was started, send it again after ``retry_after_ms``."""

    id: str
    retry_after_ms: int
    queue_depth: int

    def encode(self) -> bytes:
        """Write the payload."""
        return _payload(
            id=self.id,
            fin=True,
            status="busy",
            code=int(ErrorCode.BUSY),
            retry_after_ms=self.retry_after_ms,
            queue_depth=self.queue_depth,
        )


@dataclass(frozen=True)
class Failure:
    """The request is refused or went wrong; ``message`` is for people."""

    id: str
    code: int
    message: str

    def encode(self) -> bytes:
        """Write the payload."""
        return _payload(
            id=self.id, fin=True, status="error", code=int(self.code), message=self.message
        )


Reply: TypeAlias = Accepted | Chunk | Final | Busy | Failure


def _decode(payload: bytes, *, max_bytes: int, what: str) -> Fields:
    fields = Fields(decode_message(payload, max_bytes=max_bytes), what=what)
    fields.version()
    return fields


def _chat(fields: Fields) -> tuple[ChatMessage, ...] | None:
    turns = []
    for item in fields.items("messages", max_length=MAX_CHAT_MESSAGES):
        turn = fields.nested(item, "messages")
        role = turn.choice("role", ROLES)
        turns.append(ChatMessage(role, turn.text("content", max_length=MAX_TEXT_LENGTH)))
        turn.nothing_else()
    return tuple(turns) or None


def _stop(fields: Fields) -> tuple[str, ...]:
    texts = fields.items("stop", max_length=MAX_STOP_STRINGS)
    if not all(isinstance(text, str) and 1 <= len(text) <= MAX_STOP_LENGTH for text in texts):
        raise fields.fault(
            f"Each text of 'stop' must be a string of 1 to {MAX_STOP_LENGTH} characters."
        )
    return tuple(texts)


def parse_request(payload: bytes) -> Request:
    """Read a request's payload.

    Raises:
        WireError: If it breaks the protocol; the error carries the id where that can be read.
    """
    fields = _decode(payload, max_bytes=MAX_REQUEST_BYTES, what="request")
    request = Request(
        id=fields.identity(),
        prompt=fields.optional_text("prompt", max_length=MAX_TEXT_LENGTH),
        messages=_chat(fields),
        max_tokens=fields.optional_integer("max_tokens", 1, MAX_TOKENS),
        temperature=fields.optional_number("temperature", 0, 100),
        top_k=fields.optional_integer("top_k", 0, 1_000_000),
        top_p=fields.optional_number("top_p", 0, 1),
        min_p=fields.optional_number("min_p", 0, 1),
        repetition_penalty=fields.optional_number("repetition_penalty", 0.01, 100),
        seed=fields.optional_integer("seed", 0, MAX_SEED),
        stop=_stop(fields),
        raw=fields.flag("raw", default=False),
        beams=fields.optional_integer("beams", 1, 64) or 1,
        beam_groups=fields.optional_integer("beam_groups", 1, 64) or 1,
        diversity_penalty=fields.optional_number("diversity_penalty", 0, 100) or 0.0,
        length_penalty=_or_default(fields.optional_number("length_penalty", -10, 10), 1.0),
        priority=_or_default(
            fields.optional_integer("priority", 0, HIGHEST_PRIORITY), DEFAULT_PRIORITY
        ),
        deadline_ms=fields.optional_integer("deadline_ms", 1, MAX_DEADLINE_MS),
        stream=fields.flag("stream", default=True),
    )
    fields.nothing_else()
    if (request.prompt is None) == (request.messages is None):
        raise fields.fault("The request must have exactly one of 'prompt' and 'messages'.")
    return request


def _or_default(given: Number | None, default: Number) -> Number:
    return default if given is None else given


def parse_cancel(payload: bytes) -> Cancel:
    """Read a cancel's payload.

    Raises:
        WireError: If it breaks the protocol.
    """
    fields = _decode(payload, max_bytes=MAX_REQUEST_BYTES, what="cancel")
    cancel = Cancel(fields.identity())
    fields.nothing_else()
    return cancel


def request_id_of(payload: bytes) -> str | None:
    """Return the id of a message of any kind, or None where there is none that can be read."""
    try:
        values = decode_message(payload, max_bytes=MAX_REQUEST_BYTES)
        return Fields(values, what="message").identity()
    except WireError:
        return None


def _usage(fields: Fields) -> Usage:
    usage = Usage(
        prompt_tokens=fields.optional_integer("prompt_tokens", 0, MAX_COUNT),
        generated_tokens=fields.optional_integer("generated_tokens", 0, MAX_COUNT),
        queue_ms=fields.optional_number("queue_ms", 0, MAX_NUMBER),
        time_to_first_token_ms=fields.optional_number("time_to_first_token_ms", 0, MAX_NUMBER),
        total_ms=fields.optional_number("total_ms", 0, MAX_NUMBER),
        tokens_per_second=fields.optional_number("tokens_per_second", 0, MAX_NUMBER),
        peak_rss_bytes=fields.optional_integer("peak_rss_bytes", 0, MAX_COUNT),
    )
    fields.nothing_else()
    return usage


def _final(fields: Fields, request_id: str, status: str) -> Final:
    final = Final(
        id=request_id,
        status=status,
        text=fields.text("text", max_length=MAX_REPLY_BYTES),
        n_chunks=fields.integer("n_chunks", 0, MAX_COUNT),
        finish_reason=fields.optional_choice("finish_reason", FINISH_REASONS),
        usage=_usage(fields.inner("usage")),
    )
    if fields.text("sha256", min_length=64, max_length=64) != sha256_of_text(final.text):
        raise fields.fault("The final's text does not match its sha256.")
    return final


def parse_reply(payload: bytes) -> Reply:
    """Read the payload of any reply.

    Raises:
        WireError: If it breaks the protocol, or a final's text does not match its hash.
    """
    fields = _decode(payload, max_bytes=MAX_REPLY_BYTES, what="reply")
    request_id = fields.identity()
    final = fields.flag("fin", default=False)
    status = fields.optional_choice("status", ("accepted", "busy", "error", *FINAL_STATUSES))
    reply: Reply
    if status is None:
        text = fields.text("text", max_length=MAX_REPLY_BYTES)
        reply = Chunk(request_id, fields.integer("seq", 0, MAX_COUNT), text)
    elif status == "accepted":
        reply = Accepted(request_id, fields.integer("queue_depth", 0, MAX_COUNT))
    elif status == "busy":
        fields.integer("code", ErrorCode.BUSY, ErrorCode.BUSY)
        retry_after_ms = fields.integer("retry_after_ms", 0, MAX_COUNT)
        reply = Busy(request_id, retry_after_ms, fields.integer("queue_depth", 0, MAX_COUNT))
    elif status == "error":
        code = fields.integer("code", 400, 599)
        reply = Failure(request_id, code, fields.text("message", max_length=MAX_REPLY_BYTES))
    else:
        reply = _final(fields, request_id, status)
    fields.nothing_else()
    if final != isinstance(reply, Final | Busy | Failure):
        raise WireError("The reply's 'fin' does not fit its status.", request_id=request_id)
    return reply

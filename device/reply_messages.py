"""The wire, towards a client: what an agent answers, each message a frozen type.

Workflow: ``encode`` writes a message's payload; ``parse_reply`` reads one. Rules: each message
carries ``"v": 1``; unknown fields are refused. The last reply to a request, and only it, has
``"fin": true``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

from edgewise.device.errors import WireError
from edgewise.device.fields import Fields, encode_message, read_message
from edgewise.device.told_tokens import ToldToken, encode_told, parse_told

MAX_REPLY_BYTES = 1_048_576  # bytes of one reply's payload
MAX_COUNT = 2**53 - 1  # the largest whole number that every JSON reader keeps exact
MAX_NUMBER = float(MAX_COUNT)

MAX_RESULTS = 1024  # of one reply; an agent takes fewer texts in a request

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
    NO_MEMORY = 507  # the device has too little memory left to begin with anything


RETRYABLE = frozenset({ErrorCode.BUSY, ErrorCode.STOPPING, ErrorCode.NO_MEMORY})


def sha256_of_text(text: str) -> str:
    """Return the SHA-256 of ``text`` in UTF-8, as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Accepted:
    """The request waits or runs; ``queue_depth`` requests are before it."""

    id: str
    queue_depth: int

    def encode(self) -> bytes:
        """Write the payload."""
        return encode_message(
            id=self.id, fin=False, status="accepted", queue_depth=self.queue_depth
        )


@dataclass(frozen=True)
class Chunk:
    """A part of the answer; ``seq`` counts from 0."""

    id: str
    seq: int
    text: str

    def encode(self) -> bytes:
        """Write the payload."""
        return encode_message(id=self.id, seq=self.seq, text=self.text, fin=False)


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
        reused_tokens: Tokens of the prompt that an earlier request had computed.
    """

    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    queue_ms: float | None = None
    time_to_first_token_ms: float | None = None
    total_ms: float | None = None
    tokens_per_second: float | None = None
    peak_rss_bytes: int | None = None
    reused_tokens: int | None = None

    def given(self) -> dict[str, Any]:
        """Return what is known."""
        return {name: value for name, value in vars(self).items() if value is not None}


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
        logprobs: What is told of each token, if the request asks for it.
    """

    id: str
    status: str
    text: str
    n_chunks: int
    usage: Usage
    finish_reason: str | None = None
    logprobs: tuple[ToldToken, ...] = ()

    def encode(self) -> bytes:
        """Write the payload, with the SHA-256 of the text."""
        return encode_message(
            id=self.id,
            fin=True,
            status=self.status,
            text=self.text,
            n_chunks=self.n_chunks,
            sha256=sha256_of_text(self.text),
            finish_reason=self.finish_reason,
            logprobs=encode_told(self.logprobs),
            usage=self.usage.given(),
        )


@dataclass(frozen=True)
class Results:
    """The end of a request about texts: what was found for each of them, in their order.

    Such a request that is cancelled, or runs out of time, ends in a ``Final`` without a text.

    Attributes:
        id: The request's id.
        results: An object a text; what is in it depends on the verb (see docs/mqtt.md).
        usage: What it took.
    """

    id: str
    results: tuple[Mapping[str, Any], ...]
    usage: Usage

    def encode(self) -> bytes:
        """Write the payload."""
        return encode_message(
            id=self.id,
            fin=True,
            status="ok",
            results=list(self.results),
            usage=self.usage.given(),
        )


@dataclass(frozen=True)
class Busy:
    """The queue is full: nothing was started, send it again after ``retry_after_ms``."""

    id: str
    retry_after_ms: int
    queue_depth: int

    def encode(self) -> bytes:
        """Write the payload."""
        return encode_message(
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
        return encode_message(
            id=self.id, fin=True, status="error", code=int(self.code), message=self.message
        )


End: TypeAlias = Final | Results | Failure
Reply: TypeAlias = Accepted | Chunk | End | Busy


def _usage(fields: Fields) -> Usage:
    usage = Usage(
        prompt_tokens=fields.optional_integer("prompt_tokens", 0, MAX_COUNT),
        generated_tokens=fields.optional_integer("generated_tokens", 0, MAX_COUNT),
        queue_ms=fields.optional_number("queue_ms", 0, MAX_NUMBER),
        time_to_first_token_ms=fields.optional_number("time_to_first_token_ms", 0, MAX_NUMBER),
        total_ms=fields.optional_number("total_ms", 0, MAX_NUMBER),
        tokens_per_second=fields.optional_number("tokens_per_second", 0, MAX_NUMBER),
        peak_rss_bytes=fields.optional_integer("peak_rss_bytes", 0, MAX_COUNT),
        reused_tokens=fields.optional_integer("reused_tokens", 0, MAX_COUNT),
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
        logprobs=parse_told(fields),
        usage=_usage(fields.inner("usage")),
    )
    if fields.text("sha256", min_length=64, max_length=64) != sha256_of_text(final.text):
        raise fields.fault("The final's text does not match its sha256.")
    return final


def _results(fields: Fields) -> tuple[Mapping[str, Any], ...]:
    found = fields.items("results", max_length=MAX_RESULTS)
    if not all(isinstance(one, dict) for one in found):
        raise fields.fault("Each item of 'results' must be an object.")
    return tuple(found)


def parse_reply(payload: bytes) -> Reply:
    """Read the payload of any reply.

    Raises:
        WireError: If it breaks the protocol, or a final's text does not match its hash.
    """
    fields = read_message(payload, max_bytes=MAX_REPLY_BYTES, what="reply")
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
    elif status == "ok" and fields.has("results"):
        reply = Results(request_id, _results(fields), _usage(fields.inner("usage")))
    else:
        reply = _final(fields, request_id, status)
    fields.nothing_else()
    if final != isinstance(reply, End | Busy):
        raise WireError("The reply's 'fin' does not fit its status.", request_id=request_id)
    return reply

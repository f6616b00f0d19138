"""The wire, towards an agent: what a client asks, each message a frozen type.

Workflow: ``encode`` writes a message's payload; ``parse_request``, ``parse_texts_request`` and
``parse_cancel`` read one. Rules: each message carries ``"v": 1``; unknown fields are refused; what
a request leaves out is the agent's and the model's default. No message says who sends it or what
it is: the topic does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from edgewise.device.errors import WireError
from edgewise.device.fields import Fields, decode_message, encode_message, read_message
from edgewise.device.format_fields import encode_format, parse_format
from edgewise.device.image_fields import (
    IMAGES_BYTES_MAX,
    RequestImage,
    encode_images,
    parse_images,
)
from edgewise.device.sampling_fields import take_sampling
from edgewise.runtime.options import (
    DRY_BREAKER_MAX_LENGTH,
    DRY_BREAKERS,
    LOGPROBS_MAX,
    WINDOW_MIN,
    GenerationOptions,
)
from edgewise.runtime.output_format import OutputFormat

MAX_REQUEST_BYTES = 131_072  # bytes of one request's payload
MAX_SEEING_REQUEST_BYTES = MAX_REQUEST_BYTES + IMAGES_BYTES_MAX // 3 * 4  # with images in base64
MAX_TEXT_LENGTH = MAX_REQUEST_BYTES  # characters of a prompt, a text or a chat message
MAX_CHAT_MESSAGES = 256  # turns in one request
MAX_TEXTS = 64  # texts, or pairs of texts, in one request
MAX_TOP = 1000  # labels of a text, or words for a mask
MAX_TOKENS = 65_536  # tokens one request may ask for; the agent's own limit may be lower
MAX_DEADLINE_MS = 86_400_000  # milliseconds: a day
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256  # characters
MAX_SEED = 2**63 - 1
MAX_TASK_LENGTH = 64  # characters of a task's name
DEFAULT_PRIORITY = 5
HIGHEST_PRIORITY = 9  # 0 is the lowest

ROLES = ("system", "user", "assistant")

Number = TypeVar("Number", int, float)
Text: TypeAlias = str | tuple[str, str]
"""A text, or two whose relation matters."""


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
        images: What it is about, in the order of their marks in the prompt or the messages.
        task: What to do with the prompt, by a name of the model's, as "translation-en-to-de".
        max_tokens: The most tokens to generate.
        temperature: 0 picks the likeliest token each time.
        top_k: Choose among the k likeliest tokens; 0 means all.
        top_p: Choose among the likeliest tokens that hold this share of the probability.
        min_p: Leave out tokens less likely than this share of the likeliest one's probability.
        repetition_penalty: Over 1 makes tokens that have been used less likely.
        typical_p: Choose among the tokens that surprise about as much as is expected.
        frequency_penalty: Taken from a token's logit for each time that the answer has it.
        presence_penalty: Taken from the logits of tokens that the answer has.
        logit_bias: Added to the logits of tokens, by their ids.
        dry_multiplier: Over 0 keeps the text from repeating sequences of tokens (DRY).
        dry_base: How much more a longer repetition costs, by token.
        dry_allowed_length: Tokens in a row that may be repeated.
        dry_breakers: Texts over which no repetition reaches.
        seed: Makes sampling repeatable.
        stop: Texts that end the answer.
        raw: Feed the prompt without the model's chat template.
        beams: Over 1 searches for the likeliest answer with as many beams, without sampling.
        beam_groups: Groups of beams that avoid each other's tokens.
        diversity_penalty: How much groups avoid them.
        length_penalty: Answers are ranked by log-probability / tokens ** length_penalty.
        output_format: What the answer must look like; on the wire one of "schema", "regex",
            "choices" and "grammar".
        logprobs: Tell each token's log-probability in the final, and so many of the likeliest.
        window: Let the answer go on past the context; so many tokens are seen at most.
        priority: 0 to 9; higher is taken from the queue first.
        deadline_ms: After this many milliseconds from its arrival nobody wants the answer.
        stream: Send the text in chunks as it is made. Without, the final is the only reply.
    """

    id: str
    prompt: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    images: tuple[RequestImage, ...] = ()
    task: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    typical_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_breakers: tuple[str, ...] = DRY_BREAKERS
    seed: int | None = None
    stop: tuple[str, ...] = ()
    raw: bool = False
    beams: int = 1
    beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    output_format: OutputFormat | None = None
    logprobs: int | None = None
    window: int | None = None
    priority: int = DEFAULT_PRIORITY
    deadline_ms: int | None = None
    stream: bool = True

    def encode(self) -> bytes:
        """Write the payload; what has its default value is left out."""
        usual = vars(Request(self.id))
        given = {name: value for name, value in vars(self).items() if value != usual[name]}
        if self.messages is not None:
            given["messages"] = [vars(turn) for turn in self.messages]
        if self.images:
            given["images"] = encode_images(self.images)
        if self.logit_bias:
            given["logit_bias"] = {str(token): bias for token, bias in self.logit_bias.items()}
        given.pop("output_format", None)
        return encode_message(id=self.id, **given, **encode_format(self.output_format))


OPTIONS = tuple(
    one.name
    for one in dataclasses.fields(Request)
    if one.name in GenerationOptions.__dataclass_fields__ and one.name != "max_tokens"
)
"""Fields that a request and the options of generating have both; of max_tokens an agent has a
default of its own."""


@dataclass(frozen=True)
class TextsRequest:
    """Judge texts, in the way that the verb of the topic names. None: the agent's default.

    Attributes:
        id: Chosen by the sender, new for each request; a repeat of it is the same request.
        texts: 1 to ``MAX_TEXTS`` texts, or pairs of texts where the verb takes them.
        top: Labels of a text, or words for a mask, at most.
        priority: 0 to 9; higher is taken from the queue first.
        deadline_ms: After this many milliseconds from its arrival nobody wants the answer.
        stream: Say that the request was accepted. Without, the end is the only reply.
    """

    id: str
    texts: tuple[Text, ...]
    top: int | None = None
    priority: int = DEFAULT_PRIORITY
    deadline_ms: int | None = None
    stream: bool = True

    def encode(self) -> bytes:
        """Write the payload; what has its default value is left out."""
        return encode_message(
            id=self.id,
            texts=[text if isinstance(text, str) else list(text) for text in self.texts],
            top=self.top,
            priority=None if self.priority == DEFAULT_PRIORITY else self.priority,
            deadline_ms=self.deadline_ms,
            stream=None if self.stream else False,
        )


AnyRequest: TypeAlias = Request | TextsRequest


@dataclass(frozen=True)
class Cancel:
    """Stop the request of that id, queued or running, or refuse it should it still arrive."""

    id: str

    def encode(self) -> bytes:
        """Write the payload."""
        return encode_message(id=self.id)


def _chat(fields: Fields) -> tuple[ChatMessage, ...] | None:
    turns = []
    for item in fields.items("messages", max_length=MAX_CHAT_MESSAGES):
        turn = fields.nested(item, "messages")
        role = turn.choice("role", ROLES)
        turns.append(ChatMessage(role, turn.text("content", max_length=MAX_TEXT_LENGTH)))
        turn.nothing_else()
    return tuple(turns) or None


def _texts_of(
    fields: Fields, name: str, *, most: int, longest: int, may_be_empty: bool = False
) -> tuple[str, ...]:
    texts = fields.items(name, max_length=most, may_be_empty=may_be_empty)
    if not all(isinstance(text, str) and 1 <= len(text) <= longest for text in texts):
        raise fields.fault(f"Each text of {name!r} must be a string of 1 to {longest} characters.")
    return tuple(texts)


def _dry_breakers(fields: Fields) -> tuple[str, ...]:
    is_given = fields.has("dry_breakers")
    texts = _texts_of(
        fields,
        "dry_breakers",
        most=MAX_STOP_STRINGS,
        longest=DRY_BREAKER_MAX_LENGTH,
        may_be_empty=True,
    )
    return texts if is_given else DRY_BREAKERS


def parse_request(payload: bytes, *, max_bytes: int = MAX_REQUEST_BYTES) -> Request:
    """Read a request's payload.

    Args:
        payload: The message's payload.
        max_bytes: The largest payload taken, in bytes.

    Raises:
        WireError: If it breaks the protocol; the error carries the id where that can be read.
    """
    fields = read_message(payload, max_bytes=max_bytes, what="request")
    request = Request(
        id=fields.identity(),
        prompt=fields.optional_text("prompt", max_length=MAX_TEXT_LENGTH),
        messages=_chat(fields),
        images=parse_images(fields),
        task=fields.optional_text("task", max_length=MAX_TASK_LENGTH, min_length=1),
        max_tokens=fields.optional_integer("max_tokens", 1, MAX_TOKENS),
        dry_breakers=_dry_breakers(fields),
        seed=fields.optional_integer("seed", 0, MAX_SEED),
        stop=_texts_of(fields, "stop", most=MAX_STOP_STRINGS, longest=MAX_STOP_LENGTH),
        raw=fields.flag("raw", default=False),
        beams=fields.optional_integer("beams", 1, 64) or 1,
        beam_groups=fields.optional_integer("beam_groups", 1, 64) or 1,
        diversity_penalty=fields.optional_number("diversity_penalty", 0, 100) or 0.0,
        length_penalty=_or_default(fields.optional_number("length_penalty", -10, 10), 1.0),
        output_format=parse_format(fields),
        logprobs=fields.optional_integer("logprobs", 0, LOGPROBS_MAX),
        window=fields.optional_integer("window", WINDOW_MIN, MAX_TOKENS),
        priority=_or_default(
            fields.optional_integer("priority", 0, HIGHEST_PRIORITY), DEFAULT_PRIORITY
        ),
        deadline_ms=fields.optional_integer("deadline_ms", 1, MAX_DEADLINE_MS),
        stream=fields.flag("stream", default=True),
        **take_sampling(fields),
    )
    fields.nothing_else()
    if (request.prompt is None) == (request.messages is None):
        raise fields.fault("The request must have exactly one of 'prompt' and 'messages'.")
    if request.task is not None and request.prompt is None:
        raise fields.fault("The field 'task' says what to do with 'prompt', which is not there.")
    return request


def _or_default(given: Number | None, default: Number) -> Number:
    return default if given is None else given


def parse_texts_request(payload: bytes) -> TextsRequest:
    """Read the payload of a request about texts.

    Raises:
        WireError: If it breaks the protocol; the error carries the id where that can be read.
    """
    fields = read_message(payload, max_bytes=MAX_REQUEST_BYTES, what="request")
    request = TextsRequest(
        id=fields.identity(),
        texts=_texts(fields),
        top=fields.optional_integer("top", 1, MAX_TOP),
        priority=_or_default(
            fields.optional_integer("priority", 0, HIGHEST_PRIORITY), DEFAULT_PRIORITY
        ),
        deadline_ms=fields.optional_integer("deadline_ms", 1, MAX_DEADLINE_MS),
        stream=fields.flag("stream", default=True),
    )
    fields.nothing_else()
    return request


def _texts(fields: Fields) -> tuple[Text, ...]:
    given = fields.items("texts", max_length=MAX_TEXTS)
    if not given:
        raise fields.fault("The request has no field 'texts'.")
    texts: list[Text] = []
    for item in given:
        if isinstance(item, str):
            texts.append(item)
            continue
        pair = item if isinstance(item, list) else []
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise fields.fault("Each item of 'texts' must be a string, or a list of two strings.")
        texts.append((pair[0], pair[1]))
    return tuple(texts)


def parse_cancel(payload: bytes) -> Cancel:
    """Read a cancel's payload.

    Raises:
        WireError: If it breaks the protocol.
    """
    fields = read_message(payload, max_bytes=MAX_REQUEST_BYTES, what="cancel")
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

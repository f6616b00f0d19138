"""Making requests, and holding them against the rules of the wire, so that a fault shows here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgewise.device.errors import DeviceError
from edgewise.device.request_messages import (
    OPTIONS,
    ChatMessage,
    Request,
    Text,
    TextsRequest,
    parse_request,
    parse_texts_request,
)
from edgewise.runtime.options import GenerationOptions


def generation_request(
    prompt: str | Sequence[Mapping[str, str]],
    options: GenerationOptions | None,
    *,
    request_id: str,
    priority: int,
    deadline_seconds: float,
) -> Request:
    """Make a request for a text.

    Args:
        prompt: A text, or a conversation of {"role": ..., "content": ...}.
        options: How to generate; None: as the agent and the model have it by default.
        request_id: The request's id.
        priority: 0 to 9; higher is served first.
        deadline_seconds: How long the answer is wanted.

    Raises:
        DeviceError: If it breaks a rule.
    """
    text = prompt if isinstance(prompt, str) else None
    turns = None
    if not isinstance(prompt, str):
        try:
            turns = tuple(ChatMessage(turn["role"], turn["content"]) for turn in prompt)
        except KeyError as error:
            raise DeviceError(
                f"A message of the conversation has no {error.args[0]!r}; each has a role "
                "(system, user, assistant) and a content."
            ) from error
    asked: dict[str, Any] = {}
    if options is not None:
        asked = {name: getattr(options, name) for name in ("max_tokens", *OPTIONS)}
    request = Request(
        id=request_id,
        prompt=text,
        messages=turns,
        **asked,
        priority=priority,
        deadline_ms=_milliseconds(deadline_seconds),
    )
    try:
        return parse_request(request.encode())
    except UnicodeEncodeError as error:
        raise DeviceError("The prompt holds half of a surrogate pair, no character.") from error


def texts_request(
    texts: Sequence[Text],
    *,
    top: int | None,
    request_id: str,
    priority: int,
    deadline_seconds: float,
) -> TextsRequest:
    """Make a request about texts.

    Args:
        texts: Texts, or pairs of texts.
        top: Labels of a text, or words for a mask, at most; None: as the agent has it by default.
        request_id: The request's id.
        priority: 0 to 9; higher is served first.
        deadline_seconds: How long the answer is wanted.

    Raises:
        DeviceError: If it breaks a rule.
    """
    if isinstance(texts, str):
        raise DeviceError("The texts are one text; give a list of texts, or of pairs.")
    request = TextsRequest(
        id=request_id,
        texts=tuple(text if isinstance(text, str) else (text[0], text[1]) for text in texts),
        top=top,
        priority=priority,
        deadline_ms=_milliseconds(deadline_seconds),
    )
    try:
        return parse_texts_request(request.encode())
    except UnicodeEncodeError as error:
        raise DeviceError("A text holds half of a surrogate pair, no character.") from error


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))

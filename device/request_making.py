"""Making requests, and holding them against the rules of the wire, so that a fault shows here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgewise.device.errors import DeviceError
from edgewise.device.image_fields import (
    IMAGE_BYTES_MAX,
    MEDIA_TYPES,
    RequestImage,
    media_type_of,
)
from edgewise.device.request_messages import (
    MAX_REQUEST_BYTES,
    MAX_SEEING_REQUEST_BYTES,
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
    images: Sequence[str | os.PathLike[str] | bytes] = (),
    task: str | None = None,
) -> Request:
    """Make a request for a text.

    Args:
        prompt: A text, or a conversation of {"role": ..., "content": ...}.
        options: How to generate; None: as the agent and the model have it by default.
        request_id: The request's id.
        priority: 0 to 9; higher is served first.
        deadline_seconds: How long the answer is wanted.
        images: What it is about: files, or their contents.
        task: What to do with the text, by a name of the model's.

    Raises:
        DeviceError: If it breaks a rule, or an image can not be read.
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
        images=tuple(map(_image, images)),
        task=task,
        **asked,
        priority=priority,
        deadline_ms=_milliseconds(deadline_seconds),
    )
    try:
        most = MAX_SEEING_REQUEST_BYTES if request.images else MAX_REQUEST_BYTES
        return parse_request(request.encode(), max_bytes=most)
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


def _image(source: str | os.PathLike[str] | bytes) -> RequestImage:
    """Read an image's file and see what it is; nothing of it is decoded."""
    if isinstance(source, bytes):
        name, content = "the image", source
    else:
        name = str(Path(source))
        try:
            with Path(source).open("rb") as file:
                content = file.read(IMAGE_BYTES_MAX + 1)
        except OSError as error:
            raise DeviceError(f"{name} cannot be read: {error.strerror}.") from error
    if len(content) > IMAGE_BYTES_MAX:
        raise DeviceError(
            f"{name} has more than {IMAGE_BYTES_MAX} bytes, the most of an image in a request. "
            "Make it smaller: models see a few hundred pixels a side."
        )
    media_type = media_type_of(content)
    if media_type is None:
        raise DeviceError(f"{name} is no image; accepted: {', '.join(MEDIA_TYPES)}.")
    return RequestImage(media_type, content)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))

"""The field ``messages``: a conversation, with images where the model sees them.

Rules: an image comes inside the request, as a data URL; nothing is fetched from elsewhere, so that
nobody can have this machine ask others. In the prompt a mark stands where it belongs. Parts of a
message stand in lines of their own.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from edgewise.device.http.api_errors import unsupported
from edgewise.device.http.request_fields import RequestFields
from edgewise.device.http.settings import ServerSettings

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
DETAILS = ("auto", "low", "high")  # an image has one size here, so that they are alike
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,")


@dataclass(frozen=True)
class Conversation:
    """What a model is asked.

    Attributes:
        messages: As chat templates take them.
        images: Contents of files, in the order of their marks.
    """

    messages: list[dict[str, str]]
    images: tuple[bytes, ...] = ()


def take_messages(
    fields: RequestFields, settings: ServerSettings, marker: str | None
) -> Conversation:
    """Take a conversation.

    Args:
        fields: Of the request.
        settings: Limits.
        marker: What stands for an image in a prompt; None: the model sees none.

    Raises:
        FieldError: It breaks the form, or is too long.
        ApiError: It asks for what is not done here.
    """
    given = fields.items("messages", max_length=settings.max_messages)
    if not given:
        raise fields.fault("The request has no field 'messages'.")
    images: list[bytes] = []
    messages = [
        _message(fields, item, f"messages[{index}]", marker, images)
        for index, item in enumerate(given)
    ]
    if len(images) > settings.max_images:
        raise fields.fault(
            f"The messages have {len(images)} images; accepted: up to {settings.max_images}."
        )
    return Conversation(messages, tuple(images))


def _message(
    fields: RequestFields, item: Any, where: str, marker: str | None, images: list[bytes]
) -> dict[str, str]:
    if not isinstance(item, dict):
        raise fields.fault(f"{where} must be an object with role and content.")
    message = RequestFields(item, what=where)
    role = message.take("role")
    if not isinstance(role, str) or role not in ROLES:
        raise fields.fault(
            f"The role of {where} is {repr(role)[:60]}; accepted: {', '.join(ROLES)}."
        )
    content = message.take("content")
    for name in ("tool_calls", "function_call"):
        if message.take(name):
            raise unsupported("messages", f"hold {name} in {where}; tools are not called here.")
    for name in ("name", "refusal", "annotations", "audio"):  # none of which a template knows
        message.take(name)
    message.nothing_else()
    return {"role": ROLES[role], "content": _content(fields, content, where, marker, images)}


def _content(
    fields: RequestFields, content: Any, where: str, marker: str | None, images: list[bytes]
) -> str:
    if isinstance(content, str):
        return content
    accepted = "text" if marker is None else "text and image_url"
    if not isinstance(content, list) or not content:
        raise fields.fault(
            f"The content of {where} must be a string, or a list of parts of the type {accepted}."
        )
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url" and marker is not None:
            images.append(_image(fields, part.get("image_url"), where))
            texts.append(marker)
        else:
            raise unsupported(
                "messages",
                f"hold a part of the type {repr(kind)[:60]} in {where}; accepted: {accepted}.",
            )
    return "\n".join(texts)


def _image(fields: RequestFields, given: Any, where: str) -> bytes:
    """Return the content of an image's file."""
    url = given
    if isinstance(given, dict):
        inner = RequestFields(given, what="image_url")
        url = inner.take("url")
        inner.optional_choice("detail", DETAILS)
        inner.nothing_else()
    start = _DATA_URL.match(url) if isinstance(url, str) else None
    if start is None:
        raise fields.fault(
            f"The image in {where} must be a URL that begins with data:image/png;base64, or the "
            f"like, not {repr(url)[:60]}; images elsewhere are not fetched."
        )
    try:
        return base64.b64decode(url[start.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise fields.fault(f"The image in {where} is no base64 ({error}).") from error

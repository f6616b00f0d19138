"""The field of a request that holds images: files as base64, each with its media type.

Rules: what comes is limited before anything is decoded, in number and bytes here and in pixels by
the file's header (`check_pixels`); a file that does not begin as its media type does is refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgewise.device.fields import Fields

IMAGES_MAX = 4  # in one request
IMAGE_BYTES_MAX = 1 << 20  # bytes of one file
IMAGES_BYTES_MAX = 1_572_864  # bytes of all files of one request
IMAGE_PIXELS_MAX = 1 << 24  # of width times height; decoded they take 4 bytes each

# How files begin: bytes and where they stand.
_BEGINNINGS: Mapping[str, Sequence[tuple[int, bytes]]] = {
    "image/jpeg": ((0, b"\xff\xd8\xff"),),
    "image/png": ((0, b"\x89PNG\r\n\x1a\n"),),
    "image/webp": ((0, b"RIFF"), (8, b"WEBP")),
    "image/gif": ((0, b"GIF8"),),
    "image/bmp": ((0, b"BM"),),
}
MEDIA_TYPES = tuple(_BEGINNINGS)


@dataclass(frozen=True)
class RequestImage:
    """An image's file.

    Attributes:
        media_type: One of ``MEDIA_TYPES``.
        content: The file's bytes.
    """

    media_type: str
    content: bytes = field(repr=False)


def media_type_of(content: bytes) -> str | None:
    """Return the media type that a file begins as; None if it is none of those that are taken."""
    for media_type, marks in _BEGINNINGS.items():
        if all(content[place : place + len(mark)] == mark for place, mark in marks):
            return media_type
    return None


def encode_images(images: Sequence[RequestImage]) -> list[dict[str, str]]:
    """Return the field's value."""
    return [
        {"type": image.media_type, "data": base64.b64encode(image.content).decode()}
        for image in images
    ]


def parse_images(fields: Fields) -> tuple[RequestImage, ...]:
    """Take the images of a request.

    Raises:
        WireError: They are too many or too large, or no such files.
    """
    images: list[RequestImage] = []
    for item in fields.items("images", max_length=IMAGES_MAX):
        given = fields.nested(item, "images")
        media_type = given.choice("type", MEDIA_TYPES)
        content = _content(given)
        given.nothing_else()
        if media_type_of(content) != media_type:
            raise fields.fault(f"An image that is said to be {media_type} does not begin as such.")
        images.append(RequestImage(media_type, content))
    total = sum(len(image.content) for image in images)
    if total > IMAGES_BYTES_MAX:
        raise fields.fault(
            f"The images have {total} bytes together; accepted: up to {IMAGES_BYTES_MAX}."
        )
    return tuple(images)


def _content(given: Fields) -> bytes:
    data: Any = given.take("data")
    if not isinstance(data, str) or len(data) > 4 * (IMAGE_BYTES_MAX // 3 + 1):
        raise given.fault(
            f"The data of an image must be base64 of at most {IMAGE_BYTES_MAX} bytes; make the "
            "image smaller."
        )
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise given.fault(f"The data of an image is no base64 ({error}).") from error
    if len(content) > IMAGE_BYTES_MAX:
        raise given.fault(
            f"An image has {len(content)} bytes; accepted: up to {IMAGE_BYTES_MAX}. Make it "
            "smaller."
        )
    return content

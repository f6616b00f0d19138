"""What a request may ask of a model beside a text: to look at images, and to do a task by its name.

Workflow: an agent reads a model's abilities once; ``read`` holds each request against them as it
arrives, ``prompt_of`` and ``seen`` give what the model is called with. Rule: a request that asks
for what the model has not is refused at once, with what it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgewise.device.errors import WireError
from edgewise.device.image_fields import (
    IMAGE_BYTES_MAX,
    IMAGE_PIXELS_MAX,
    IMAGES_BYTES_MAX,
    IMAGES_MAX,
)
from edgewise.device.reply_messages import ErrorCode
from edgewise.device.request_messages import (
    MAX_REQUEST_BYTES,
    MAX_SEEING_REQUEST_BYTES,
    Request,
    parse_request,
)
from edgewise.runtime.manifest import Manifest


@dataclass(frozen=True)
class Abilities:
    """What a model can be asked for beside a text.

    Attributes:
        model: Its name, for messages.
        sees: Whether it takes images.
        task_words: What a text begins with, by the name of its task.
    """

    model: str = "this model"
    sees: bool = False
    task_words: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: object) -> Abilities:
        """Read those of a model; one without a manifest has none."""
        manifest = getattr(model, "manifest", None)
        if not isinstance(manifest, Manifest):
            return cls()
        return cls(manifest.model_id, manifest.image is not None, manifest.prefixes)

    @property
    def request_bytes(self) -> int:
        """The largest request that is read, in bytes."""
        return MAX_SEEING_REQUEST_BYTES if self.sees else MAX_REQUEST_BYTES

    @property
    def limits(self) -> dict[str, int]:
        """What an agent announces of it."""
        limits = {"request_bytes": self.request_bytes}
        if self.sees:
            limits |= {
                "images": IMAGES_MAX,
                "image_bytes": IMAGE_BYTES_MAX,
                "images_bytes": IMAGES_BYTES_MAX,
                "image_pixels": IMAGE_PIXELS_MAX,
            }
        return limits

    def read(self, payload: bytes) -> Request:
        """Read a request, and refuse what the model can not be asked for.

        Raises:
            WireError: The request breaks the protocol, or has images or a task that the model has
                no use for.
        """
        blind = f"{self.model} sees no images: ask without, or ask an agent whose info limits them."
        try:
            request = parse_request(payload, max_bytes=self.request_bytes)
        except WireError as error:
            if error.code == ErrorCode.TOO_LARGE and not self.sees and b'"images"' in payload:
                raise WireError(f"{error} {blind}", code=error.code) from error
            raise
        if request.images and not self.sees:
            raise WireError(f"The request has images; {blind}", request_id=request.id)
        if request.task is not None and request.task not in self.task_words:
            known = ", ".join(self.task_words)
            raise WireError(
                f"The field 'task' is {request.task!r}; {self.model} "
                + (f"knows: {known}." if known else "knows none by name: leave it out."),
                request_id=request.id,
            )
        return request

    def prompt_of(self, request: Request) -> str | list[dict[str, str]]:
        """Return what the model gets: a text with the words of its task, or a conversation."""
        if request.prompt is None:
            return [{"role": turn.role, "content": turn.content} for turn in request.messages or ()]
        return ("" if request.task is None else self.task_words[request.task]) + request.prompt

    @staticmethod
    def seen(request: Request) -> dict[str, Any]:
        """Return the further argument of a model that sees; none where there are no images.

        Raises:
            ImageError: One has too many pixels or is no image, by its header; nothing is decoded.
        """
        if not request.images:
            return {}
        from edgewise.runtime.images import check_pixels  # noqa: PLC0415  # loads numpy

        for image in request.images:
            check_pixels(image.content, IMAGE_PIXELS_MAX)
        return {"images": [image.content for image in request.images]}

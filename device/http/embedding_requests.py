"""Requests for vectors: what ``/v1/embeddings`` takes, and the JSON of its answer."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgewise.device.http.api_errors import ApiError, unsupported
from edgewise.device.http.request_fields import RequestFields
from edgewise.device.http.settings import ServerSettings

FORMATS = ("float", "base64")


@dataclass(frozen=True)
class EmbeddingRequest:
    """What to embed.

    Attributes:
        model: The name of the model that is asked.
        texts: One or more.
        encoding: How vectors are written, one of ``FORMATS``.
        dimensions: How many features the vectors must have; None: as many as they have.
    """

    model: str
    texts: tuple[str, ...]
    encoding: str = "float"
    dimensions: int | None = None


def read_embedding_request(values: dict[str, Any], settings: ServerSettings) -> EmbeddingRequest:
    """Read the body of a request.

    Raises:
        WireError: It breaks the form.
        ApiError: It asks for what is not done here.
    """
    fields = RequestFields(values)
    model = fields.text("model", max_length=1024)
    given = fields.take("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 1 <= len(texts) <= settings.max_texts:
        raise fields.fault(
            f"The field 'input' must be a string, or a list of 1 to {settings.max_texts} strings."
        )
    if not all(isinstance(text, str) for text in texts):
        raise unsupported("input", "holds what is no string; token ids are not taken here.")
    encoding = fields.optional_choice("encoding_format", FORMATS) or "float"
    dimensions = fields.optional_integer("dimensions", 1, 1 << 20)
    fields.refuse_absent()
    fields.nothing_else()
    return EmbeddingRequest(model, tuple(texts), encoding, dimensions)


def embedding_reply(
    request: EmbeddingRequest, vectors: Sequence[Sequence[float]], tokens: int
) -> dict[str, Any]:
    """Return the JSON of the answer.

    Args:
        request: What was asked.
        vectors: One a text.
        tokens: Of all texts together.

    Raises:
        ApiError: The vectors do not have the features that were asked for.
    """
    features = len(vectors[0])
    if request.dimensions not in {None, features}:
        raise ApiError(
            f"dimensions is {request.dimensions}; this model's vectors have {features}, and are "
            "not cut.",
            field="dimensions",
        )
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, request.encoding)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}


def _written(vector: Sequence[float], encoding: str) -> list[float] | str:
    """Write a vector; base64 is of little-endian float32, as OpenAI's clients read it."""
    if encoding == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

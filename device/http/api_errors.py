"""What a client is told when a request fails, in the form that OpenAI's clients read.

Rules: an error of the request (4xx) says what was given and what is accepted; a fault of ours (5xx)
goes to the log, and the client is told no more than that there was one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from edgewise.common.errors import EdgewiseError
from edgewise.device.errors import WireError
from edgewise.runtime.admission import LateError
from edgewise.runtime.engine_error import EngineError
from edgewise.runtime.model import ModelError
from edgewise.runtime.slot_pool import ContextError

logger = logging.getLogger(__name__)

Kind = Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]


class ApiError(Exception):
    """A failure as the client is told it.

    Attributes:
        status: Of HTTP.
        kind: OpenAI's ``type``.
        code: OpenAI's ``code``; None: there is none.
        field: Of the request, at fault; None: no single one is.
        headers: Of the response.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: Kind = "invalid_request_error",
        code: str | None = None,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.field = field
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the JSON that is sent."""
        return {
            "error": {
                "message": str(self),
                "type": self.kind,
                "param": self.field,
                "code": self.code,
            }
        }


class FieldError(WireError):
    """A request whose field is at fault.

    Attributes:
        field: Its name.
    """

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


def unsupported(field: str, why: str) -> ApiError:
    """Make the error for something of OpenAI's that there is not here."""
    return ApiError(f"{field} {why}", code="unsupported_parameter", field=field)


def stopping() -> ApiError:
    """Make the error of a server that ends."""
    return ApiError(
        "The server is stopping; ask again later.",
        status=503,
        kind="server_error",
        code="stopping",
        headers={"retry-after": "5", "connection": "close"},
    )


def no_memory(message: str) -> ApiError:
    """Make the error of a server that is short of memory."""
    return ApiError(
        message,
        status=503,
        kind="server_error",
        code="out_of_memory",
        headers={"retry-after": "5"},
    )


def as_api_error(error: BaseException) -> ApiError:
    """Say what a client is told about an exception; what is a fault of ours is logged."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, FieldError):
        return ApiError(str(error), field=error.field)
    if isinstance(error, WireError):
        return ApiError(str(error), status=error.code)
    if isinstance(error, ContextError):
        return ApiError(_sentence(error), code="context_length_exceeded")
    if isinstance(error, ModelError):
        return stopping()
    if isinstance(error, LateError):
        return ApiError(_sentence(error), status=503, kind="server_error", code="late")
    if isinstance(error, MemoryError):
        logger.error("There was not enough memory for a request", exc_info=error)
        return no_memory("There is not enough memory for this now; ask again later, or for less.")
    if isinstance(error, EdgewiseError) and not isinstance(error, EngineError):
        return ApiError(_sentence(error))
    logger.error("A request failed", exc_info=error)
    return ApiError("The model failed; the server's log says why.", status=500, kind="server_error")


def _sentence(error: EdgewiseError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?', '!')) else '.'}"

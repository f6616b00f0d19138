"""What stands before every endpoint: who may come in, and whether any one still may.

Rules: everything but ``/health`` needs a key where there are keys; without keys it must be asked
for by a name of this machine, which a page from elsewhere in its browser can not. A server that
stops refuses with 503 what has not begun, and counts what has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from edgewise.device.http.api_errors import ApiError, stopping
from edgewise.device.http.keys import Keys
from edgewise.device.http.listening import host_name, is_loopback

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health"})
CLIENT = "edgewise.client"  # of the scope: who asks


def error_response(error: ApiError) -> JSONResponse:
    """Make the response of a failure."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


class Gate:
    """An ASGI application around another."""

    def __init__(self, application: Application, *, keys: Keys | None) -> None:
        """Stand before an application; None for ``keys``: this machine's programs may ask."""
        self._application = application
        self._keys = keys
        self.draining = False
        self.active = 0  # requests that have begun and whose responses have not ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        statuses: list[int] = []
        begin = time.monotonic()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        await self._answer(scope, receive, noted)
        logger.debug(
            "%s %r for %s: %s after %.3f s",
            scope["method"],
            scope["path"][:200],
            scope.get(CLIENT, "somebody"),
            statuses[0] if statuses else "nothing",
            time.monotonic() - begin,
        )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_PATHS:
            await self._application(scope, receive, send)
            return
        try:
            scope[CLIENT] = self._admitted(scope)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        self.active += 1
        try:
            await self._application(scope, receive, send)
        finally:
            self.active -= 1

    def _admitted(self, scope: Scope) -> str:
        """Return who asks.

        Raises:
            ApiError: Nobody who may, or too late.
        """
        headers = Headers(scope=scope)
        address = scope.get("client")
        client = str(address[0]) if address else ""
        if self._keys is not None:
            owner = self._keys.owner(headers.get("authorization"))
            if owner is None:
                raise ApiError(
                    "No key, or a wrong one, was given; send the header 'Authorization: Bearer "
                    "KEY' with a key of this server.",
                    status=401,
                    kind="authentication_error",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
            client = owner
        elif not is_loopback(host_name(headers.get("host", ""))):
            raise ApiError(
                "Without keys this server answers only to the names of its own machine, such as "
                "127.0.0.1; for others start it with a key file.",
                status=403,
                code="host_refused",
            )
        if self.draining:
            raise stopping()
        return client

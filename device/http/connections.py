"""A connection that has to get on: uvicorn waits for ever for the rest of a request's headers."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

HURRY_SECONDS = 20.0  # of a connection without a request, looked at as often


class HurriedProtocol(H11Protocol):
    """Closes a connection on which no request has begun for `HURRY_SECONDS` or somewhat longer."""

    hurry_seconds = HURRY_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look."""
        super().connection_made(transport)
        self._request: Any = None  # what the last look saw
        self._watch = self.loop.call_later(self.hurry_seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        request = cast("Any", self.cycle)  # None before the first
        is_idle = request is None or request.response_complete
        if is_idle and request is self._request:
            self.transport.close()
            return
        self._request = request
        self._watch = self.loop.call_later(self.hurry_seconds, self._look)

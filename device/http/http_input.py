"""What comes in over HTTP: a body that is read within limits, and a client that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from edgewise.device.http.api_errors import ApiError
from edgewise.device.http.request_fields import read_object
from edgewise.device.http.settings import ServerSettings

Result = TypeVar("Result")


async def read_json(request: Request, settings: ServerSettings) -> dict[str, Any]:
    """Read a body of JSON.

    Raises:
        ApiError: It is no JSON by its header, too large, or does not arrive in time.
        WireError: It is no JSON object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what a page from elsewhere can not send unasked
        raise ApiError(
            f"The body's type is {kind[:60]!r}; send 'Content-Type: application/json'.", status=415
        )
    most = settings.max_body_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise _too_large(most)
    parts = bytearray()
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for part in request.stream():
                parts += part
                if len(parts) > most:
                    raise _too_large(most)
    except TimeoutError as error:
        raise ApiError(
            f"The body did not arrive within {settings.body_seconds:g} s; send it again.",
            status=408,
            headers={"connection": "close"},
        ) from error
    return read_object(bytes(parts), max_bytes=most)


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for something, unless the client goes away, which cancels it.

    Raises:
        ClientDisconnect: Nobody waits for the answer any more.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        watching.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_large(most: int) -> ApiError:
    return ApiError(
        f"The request is too large; accepted: {most} bytes.",
        status=413,
        headers={"connection": "close"},
    )

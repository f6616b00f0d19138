"""The endpoints: each reads a request, has it answered in its turn, and writes the reply.

Workflow of a generation: body, fields, room in the line, prompt into tokens (all of which can
refuse), turn, first piece; only then does a response begin, so that whatever is refused has its
status. A stream that fails later ends with an event that has the error, and without ``[DONE]``.

Rules: one model; who names another is told so. A client that goes away cancels what it asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgewise.common.panics import as_exception
from edgewise.common.version import VERSION
from edgewise.device.http.answering import Answering
from edgewise.device.http.api_errors import ApiError, as_api_error, no_memory, stopping
from edgewise.device.http.embedding_requests import embedding_reply, read_embedding_request
from edgewise.device.http.event_stream import DONE, EventStream, event
from edgewise.device.http.gate import CLIENT, Gate, error_response
from edgewise.device.http.generation_requests import (
    GenerationRequest,
    read_chat_request,
    read_text_request,
)
from edgewise.device.http.http_input import read_json, unless_disconnected
from edgewise.device.http.keys import Keys
from edgewise.device.http.line import Line
from edgewise.device.http.replies import ChatReply, Choice, Reply, TextReply, usage_of
from edgewise.device.http.served_model import ServedModel
from edgewise.device.http.settings import ServerSettings
from edgewise.device.http.token_texts import TokenTexts
from edgewise.device.memory_guard import MemoryGuard
from edgewise.firmware_profiles.memory_left import memory_left
from edgewise.runtime.admission import Standing
from edgewise.runtime.generation import Piece
from edgewise.runtime.tasks import check_task

ENCODERS = 2  # threads that make tokens of prompts
EMBEDDED_AT_ONCE = 8  # texts, between which a request that nobody waits for is left

Endpoint = Callable[[Request], Awaitable[Response]]
Result = TypeVar("Result")
ReadRequest = Callable[[dict[str, Any], ServerSettings, str | None], GenerationRequest]


class Endpoints:
    """See the module's docstring. `gate` is the whole as an ASGI application."""

    def __init__(
        self,
        model: ServedModel,
        *,
        settings: ServerSettings,
        keys: Keys | None = None,
        name: str | None = None,
        memory_left: Callable[[], int | None] = memory_left,
    ) -> None:
        """Prepare to answer with a model.

        Args:
            model: What answers.
            settings: Limits.
            keys: Who may ask; None: the programs of this machine.
            name: What clients may call the model beside its id.
            memory_left: Gives the bytes of memory that can still be taken; None where nobody knows.
        """
        self._model = model
        self._settings = settings
        identity = model.manifest.model_id
        self._names = tuple(dict.fromkeys((name or identity, identity)))
        self._created = int(time.time())
        hashes = "".join(file.sha256 for file in model.manifest.files)
        digest = hashlib.sha256(f"{VERSION}{hashes}".encode()).hexdigest()
        self._fingerprint = f"fp_{digest[:12]}"
        self.line = Line(settings.slots, settings.queue_size)
        self._memory = MemoryGuard(settings.memory_reserve_bytes, left=memory_left)
        self._engine = ThreadPoolExecutor(settings.slots, thread_name_prefix="model")
        self._encoders = ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode")
        self._answerings: set[Answering[Any]] = set()
        routes = [
            Route("/health", self._health),
            Route("/v1/models", _answered(self._models)),
            Route("/v1/models/{name:path}", _answered(self._one_model)),
            Route("/v1/chat/completions", _answered(self._chat), methods=["POST"]),
            Route("/v1/completions", _answered(self._continue), methods=["POST"]),
            Route("/v1/embeddings", _answered(self._embed), methods=["POST"]),
        ]
        application = Starlette(routes=routes, exception_handlers={HTTPException: _not_there})
        self.gate = Gate(application, keys=keys)

    def abort(self) -> None:
        """Have every request that is answered fail because the server stops."""
        for answering in list(self._answerings):
            answering.abort(stopping())

    def close(self) -> None:
        """Wait for the threads, which end at their next piece once their requests are closed."""
        self._encoders.shutdown()
        self._engine.shutdown()

    # About the server

    async def _health(self, _request: Request) -> Response:
        state = "stopping" if self.gate.draining else "ok"
        figures = {"status": state, "running": self.line.begun, "waiting": self.line.waiting}
        return JSONResponse(figures, status_code=503 if self.gate.draining else 200)

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def _one_model(self, request: Request) -> Response:
        self._check_name(request.path_params["name"])
        return JSONResponse(self._described())

    def _described(self) -> dict[str, Any]:
        manifest = self._model.manifest
        return {
            "id": self._names[0],
            "object": "model",
            "created": self._created,
            "owned_by": "edgewise",
            "context_length": self._model.context_length,
            "tasks": list(manifest.tasks),
        }

    def _check_name(self, name: str) -> None:
        if name not in self._names:
            raise ApiError(
                f"There is no model {name[:100]!r} here; accepted: {', '.join(self._names)}.",
                status=404,
                code="model_not_found",
                field="model",
            )

    # Text

    async def _chat(self, request: Request) -> Response:
        return await self._generate(request, read_chat_request, ChatReply)

    async def _continue(self, request: Request) -> Response:
        return await self._generate(request, read_text_request, TextReply)

    async def _generate(
        self, request: Request, read: ReadRequest, kind: type[ChatReply | TextReply]
    ) -> Response:
        layout = self._model.manifest.image
        marker = None if layout is None else layout.marker
        asked = read(await read_json(request, self._settings), self._settings, marker)
        self._check_name(asked.model)
        check_task(self._model.manifest, "generate")
        self._check_room(len(asked.prompts) * asked.choices)
        standing = Standing(request.scope[CLIENT])
        generators = await self._encode(lambda: self._generators(asked, standing))
        texts = None
        if asked.options.logprobs is not None:
            texts = TokenTexts(self._model.tokenizer, self._model.manifest.tokens.end)
        reply = kind(asked.model, self._fingerprint, usage_follows=asked.include_usage, texts=texts)
        answering = self._answer(standing, generators)
        with contextlib.ExitStack() as stack:
            stack.callback(self._leave, answering)
            if not asked.stream:
                choices = await unless_disconnected(request, _collected(answering, len(generators)))
                return JSONResponse(reply.whole(choices, usage_of(choices, asked.choices)))
            items = aiter(answering)
            first = await unless_disconnected(request, _next(items))
            events = _events(answering, items, first, reply, asked, len(generators))
            return EventStream(events, on_end=stack.pop_all().close)

    def _generators(
        self, asked: GenerationRequest, standing: Standing
    ) -> list[Generator[Piece, None, None]]:
        seen = {"images": asked.images} if asked.images else {}
        return [
            self._model.stream(prompt, options, standing=standing, **seen)
            for prompt, options in asked.each()
        ]

    # Vectors

    async def _embed(self, request: Request) -> Response:
        values = await read_json(request, self._settings)
        asked = read_embedding_request(values, self._settings)
        self._check_name(asked.model)
        check_task(self._model.manifest, "embed")
        self._check_room(1)
        texts = asked.texts
        counts = await self._encode(lambda: [self._model.count_tokens(text) for text in texts])
        answering = self._answer(Standing(request.scope[CLIENT]), [self._vectors(texts)])
        try:
            vectors = await unless_disconnected(request, _gathered(answering, sum(counts)))
        finally:
            self._leave(answering)
        return JSONResponse(embedding_reply(asked, vectors, sum(counts)))

    def _vectors(self, texts: Sequence[str]) -> Generator[list[list[float]], None, None]:
        for begin in range(0, len(texts), EMBEDDED_AT_ONCE):
            yield self._model.embed(texts[begin : begin + EMBEDDED_AT_ONCE]).tolist()

    # Both

    def _check_room(self, count: int) -> None:
        """Refuse what there is no memory or no place for."""
        shortage = self._memory.shortage()
        if shortage is not None:
            raise no_memory(shortage)
        self.line.check_room(count)

    async def _encode(self, work: Callable[[], Result]) -> Result:
        """Make tokens of prompts, beside the event loop."""

        def guarded() -> Result:
            try:
                return work()
            except Exception:
                raise
            except BaseException as error:
                raise as_exception(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._encoders, guarded)

    def _answer(self, standing: Standing, generators: Sequence[Any]) -> Answering[Any]:
        answering = Answering[Any](
            generators, line=self.line, executor=self._engine, standing=standing
        )
        self._answerings.add(answering)
        return answering

    def _leave(self, answering: Answering[Any]) -> None:
        answering.close()
        self._answerings.discard(answering)


async def _next(items: AsyncIterator[tuple[int, Piece]]) -> tuple[int, Piece]:
    return await anext(items)


async def _collected(answering: Answering[Piece], count: int) -> list[Choice]:
    choices = [Choice() for _ in range(count)]
    async for index, piece in answering:
        answering.count(index, len(piece.token_ids))
        choices[index].add(piece)
    return choices


async def _gathered(answering: Answering[list[list[float]]], tokens: int) -> list[list[float]]:
    answering.count(0, tokens)
    return [vector async for _, vectors in answering for vector in vectors]


async def _events(
    answering: Answering[Piece],
    items: AsyncIterator[tuple[int, Piece]],
    first: tuple[int, Piece],
    reply: Reply,
    asked: GenerationRequest,
    count: int,
) -> AsyncIterator[bytes]:
    """Give the events of a stream whose first item has come."""
    choices = [Choice() for _ in range(count)]
    begun: set[int] = set()
    item: tuple[int, Piece] | None = first
    try:
        while item is not None:
            index, piece = item
            answering.count(index, len(piece.token_ids))
            choices[index].add(piece)
            for part in reply.parts(index, piece, is_first=index not in begun):
                yield event(part)
            begun.add(index)
            item = await anext(items, None)
    except Exception as error:  # noqa: BLE001 - the status was sent; all that is left is an event
        yield event(as_api_error(error).body())
        return
    if asked.include_usage:
        yield event(reply.last(usage_of(choices, asked.choices)))
    yield DONE


def _answered(endpoint: Endpoint) -> Endpoint:
    """Turn what an endpoint raises into a response."""

    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:  # noqa: BLE001 - whatever it is, this request alone fails
            return error_response(as_api_error(error))

    return answered


async def _not_there(request: Request, error: Exception) -> Response:
    found = cast("HTTPException", error)
    message = f"{request.method} {request.url.path[:200]} is not served here."
    return error_response(
        ApiError(message, status=found.status_code, headers=dict(found.headers or {}))
    )

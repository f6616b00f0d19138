"""Servers on free ports of 127.0.0.1, over fake models, and ways to ask them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from edgewise.device.http.keys import Keys
from edgewise.device.http.server import HttpServer
from edgewise.device.http.settings import ServerSettings
from edgewise.runtime import load
from edgewise.runtime.admission import Standing
from edgewise.runtime.backends.fake_bundle import write_fake_bundle
from edgewise.runtime.generation import Piece, Statistics
from edgewise.runtime.options import GenerationOptions

CHAT = "/v1/chat/completions"
PATIENCE = 20.0  # seconds that anything may take before a test gives up


@dataclass
class Answer:
    """A response that has come whole."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return found

    @property
    def events(self) -> list[Any]:
        """The values of a stream; "[DONE]" is the text."""
        lines = self.content.decode().split("\n\n")
        assert lines.pop() == ""
        assert all(line.startswith("data: ") for line in lines)
        texts = [line.removeprefix("data: ") for line in lines]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]


class Asker:
    """Speaks HTTP with a server, without any library's ideas of it."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.host, _, port = server.url.removeprefix("http://").rpartition(":")
        self.port = int(port)

    def connect(self) -> HTTPConnection:
        return HTTPConnection(self.host, self.port, timeout=PATIENCE)

    def __call__(
        self,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        method: str | None = None,
    ) -> Answer:
        """Send a JSON value, or bytes as they are."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = {} if content is None else {"Content-Type": "application/json"}
        given |= headers or {}
        connection = self.connect()
        try:
            connection.request(
                method or ("GET" if content is None else "POST"), path, content, given
            )
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    @staticmethod
    def body(text: str = "Hi", **fields: Any) -> dict[str, Any]:
        """The body of a request for a chat; ``fields`` may replace what is in it."""
        return {"model": "fake", "messages": [{"role": "user", "content": text}], **fields}

    def chat(self, text: str = "Hi", **fields: Any) -> Answer:
        return self(CHAT, self.body(text, **fields))

    def begin(self, text: str, **fields: Any) -> HTTPConnection:
        """Send a request for a chat and leave the connection open, its response unread."""
        connection = self.connect()
        content = json.dumps(self.body(text, **fields)).encode()
        connection.request("POST", CHAT, content, {"Content-Type": "application/json"})
        return connection


class _Panic(BaseException):
    """As Rust libraries panic: no Exception."""


@dataclass
class ScriptedModel:
    """A model whose prompt says what it does.

    ``hang``: one piece, then nothing until ``release``. ``endless``: pieces until closed.
    ``crash``: one piece, then an exception. ``fall``: an exception at once. ``panic``: at once,
    what is no Exception. ``starve``: no memory. Before it begins: ``refuse``, an EdgewiseError, and
    ``choke``, a panic. Anything else comes back word by word.
    """

    seen: list[tuple[Any, GenerationOptions]] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    context_length: int = 100
    running: int = 0
    most: int = 0
    manifest: Any = field(
        default_factory=lambda: SimpleNamespace(
            model_id="fake",
            tasks=("generate",),
            files=(),
            image=None,
        )
    )

    def stream(
        self, prompt: Any, options: GenerationOptions, *, standing: Standing
    ) -> Generator[Piece, None, None]:
        from edgewise.common.errors import EdgewiseError

        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        self.seen.append((prompt, options))
        self.standings.append(standing)
        if text == "choke":
            raise _Panic("a library's")
        if text == "refuse":
            raise EdgewiseError("the prompt is refused")
        return self._pieces(text)

    def _pieces(self, text: str) -> Generator[Piece, None, None]:
        verb, *_ = words = text.split()
        self.begun.append(text)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if verb == "panic":
                raise _Panic("a library's")
            if verb == "starve":
                raise MemoryError
            if verb == "fall":
                raise ZeroDivisionError("secret /home/someone/model.bin")
            yield Piece("", ())
            for number, word in enumerate(words):
                last = number == len(words) - 1
                statistics = Statistics(7, number + 1, 0.0, 0.0, 0.0, 0) if last else None
                if verb == "hang":
                    yield Piece("first ", (0,))
                    assert self.release.wait(PATIENCE)
                while verb == "endless":
                    time.sleep(0.001)
                    yield Piece("and ", (0,))
                if verb == "crash":
                    yield Piece("first ", (0,))
                    raise ZeroDivisionError("secret /home/someone/model.bin")
                yield Piece(f"{word} ", (number,), "stop" if last else None, statistics)
        finally:
            self.running -= 1
            self.closed.append(text)


@pytest.fixture
def scripted() -> Iterator[ScriptedModel]:
    model = ScriptedModel()
    yield model
    model.release.set()


@pytest.fixture
def serve() -> Iterator[Callable[..., Asker]]:
    """Start a server over a model; it stops with the test."""
    servers: list[HttpServer] = []

    def start(
        model: Any,
        *,
        keys: Keys | None = None,
        memory_left: Callable[[], int | None] = lambda: None,
        **settings: Any,
    ) -> Asker:
        given = ServerSettings(**({"drain_seconds": 0.0} | settings))
        server = HttpServer(model, port=0, keys=keys, settings=given, memory_left=memory_left)
        server.start()
        servers.append(server)
        return Asker(server)

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    """A server over a fake bundle whose every chat is answered with one sentence."""
    folder: Path = write_fake_bundle(tmp_path_factory.mktemp("serve") / "bundle")
    settings = ServerSettings(drain_seconds=0.0)
    with load(folder) as model, HttpServer(model, port=0, settings=settings) as server:  # type: ignore[arg-type]
        yield Asker(server)


@pytest.fixture(name="eventually", scope="session")
def eventually_fixture() -> Callable[..., Any]:
    def eventually(condition: Callable[[], Any]) -> Any:
        """Wait until the condition holds, and give its value."""
        give_up = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < give_up, "it did not happen in time"
            time.sleep(0.005)
        return value

    return eventually

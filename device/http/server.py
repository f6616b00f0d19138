"""The server: its socket, its thread, and an end that lets running answers finish.

Workflow: ``start`` opens the socket and begins to answer in a thread with an event loop; ``stop``
ends in an orderly way; ``run`` is all of that until a signal.

Rules: a server that stops refuses new requests with 503, gives running ones ``drain_seconds``, then
fails what is left. A second signal does not wait. The model belongs to the caller and is not closed
here.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from edgewise.device.http.connections import HurriedProtocol
from edgewise.device.http.endpoints import Endpoints
from edgewise.device.http.keys import Keys
from edgewise.device.http.listening import BACKLOG, listen, url_of
from edgewise.device.http.served_model import ServedModel
from edgewise.device.http.settings import ServerSettings
from edgewise.firmware_profiles.memory_left import memory_left

logger = logging.getLogger(__name__)

WATCH_SECONDS = 0.2  # how often ``run`` looks whether the server still works
POLL_SECONDS = 0.02  # how often ``stop`` looks whether the last answer has ended
ABORT_SECONDS = 2  # that requests get to be told that they failed
IDLE_SECONDS = 15  # that a connection is kept without a request


class HttpServer:
    """See the module's docstring. Use as a context manager, ``start`` and ``stop``, or ``run``."""

    def __init__(
        self,
        model: ServedModel,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        keys: Keys | None = None,
        name: str | None = None,
        settings: ServerSettings | None = None,
        memory_left: Callable[[], int | None] = memory_left,
    ) -> None:
        """Prepare; nothing is answered before ``start``.

        Args:
            model: What answers, loaded with as many slots as the settings say.
            host: A name or an address of this machine; one that others reach needs keys.
            port: 0 for a free one.
            keys: Who may ask; None: the programs of this machine.
            name: What clients may call the model beside its id.
            settings: Limits and intervals.
            memory_left: Gives the bytes of memory that can still be taken; None where nobody knows.
        """
        self.settings = ServerSettings() if settings is None else settings
        self._host, self._port, self._has_keys = host, port, keys is not None
        self._endpoints = Endpoints(
            model, settings=self.settings, keys=keys, name=name, memory_left=memory_left
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._endpoints.gate,
                http=HurriedProtocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # a header that anyone can send would say who asks
                server_header=False,
                backlog=BACKLOG,
                limit_concurrency=self.settings.max_connections,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=ABORT_SECONDS,
            )
        )
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._signals = 0
        self._stop_wanted = threading.Event()

    def __enter__(self) -> HttpServer:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the server is reached, once it has started, such as "http://127.0.0.1:8080"."""
        if self._socket is None:
            raise ValueError("the server has not started")
        return self._url

    def start(self) -> None:
        """Open the socket and begin to answer.

        Raises:
            DeviceError: The address can not be used, or would let anyone ask.
        """
        self._socket = listen(self._host, self._port, has_keys=self._has_keys)
        self._url = url_of(self._socket)
        self._thread.start()

    def stop(self) -> None:
        """Let running answers end within ``drain_seconds``, then stop; may be called again."""
        gate = self._endpoints.gate
        gate.draining = True
        if self._thread.is_alive():
            self._wait_until_idle(self.settings.drain_seconds)
            if gate.active:
                logger.warning("%d requests are ended before their time", gate.active)
                self._endpoints.abort()
                self._wait_until_idle(ABORT_SECONDS, patient=True)
            self._server.should_exit = True
            self._thread.join()
        self._endpoints.close()
        if self._socket is not None:
            self._socket.close()

    def _wait_until_idle(self, seconds: float, *, patient: bool = False) -> None:
        give_up = time.monotonic() + seconds
        while self._endpoints.gate.active and self._thread.is_alive():
            if time.monotonic() >= give_up or (self._signals > 1 and not patient):
                return
            time.sleep(POLL_SECONDS)

    def run(self, *, on_start: Callable[[], None] = lambda: None) -> None:
        """Start, answer until SIGTERM, SIGINT or ``request_stop``, and stop.

        Signals are caught where this is the main thread.

        Args:
            on_start: Called once requests are answered and signals are caught.

        Raises:
            DeviceError: It cannot start.
            RuntimeError: Its thread has ended, which is a fault of ours.
        """
        previous: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                previous[number] = signal.signal(number, self._on_signal)
        try:
            self.start()
            on_start()
            while not self._stop_wanted.wait(WATCH_SECONDS):
                if not self._thread.is_alive():
                    raise RuntimeError("the thread that serves has ended")
        finally:
            self.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def request_stop(self) -> None:
        """Have ``run`` stop; any thread may."""
        self._stop_wanted.set()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        logger.info("Stopping because of %s", signal.Signals(number).name)
        self._signals += 1
        self._stop_wanted.set()

    def _serve(self) -> None:
        if self._socket is not None:
            self._server.run(sockets=[self._socket])

"""A broker inside this process, for the demo and for tests: nobody has to install one.

amqtt (from the extra ``demo``) runs in a thread of its own on the loopback address. It speaks MQTT
3.1.1 only, takes anyone, and keeps nothing: it is no broker for a fleet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgewise.device.errors import DeviceError

if TYPE_CHECKING:
    from amqtt.broker import Broker

HOST = "127.0.0.1"
START_SECONDS = 10.0
STOP_SECONDS = 5.0
PORT_TRIES = 5  # another process may take a port between its choice and its use

logger = logging.getLogger(__name__)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class _Subscriptions(dict[str, Any]):
    """amqtt's table of subscriptions, that may change while a loop over it waits.

    amqtt 0.12 sends retained messages and broadcasts inside loops over its table. A filter that
    comes or goes meanwhile (every second it forgets those of clients that left) ended the loop with
    a RuntimeError, and with it the connection of whoever was just being welcomed.
    """

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().__iter__()))

    def items(self) -> Any:  # what dict gives has no public name
        return dict(super().items()).items()


class EmbeddedBroker:
    """An MQTT 3.1.1 broker on 127.0.0.1; use as a context manager."""

    protocol = "3.1.1"  # for clients that would otherwise first try MQTT 5, in vain

    def __init__(self, *, port: int = 0) -> None:
        """Prepare; ``port`` 0 takes a free one."""
        self._wanted_port = port
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="embedded-broker", daemon=True
        )
        self._broker: Broker | None = None

    @property
    def url(self) -> str:
        """The broker's URL."""
        return f"mqtt://{HOST}:{self.port}"

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the broker and wait until it listens.

        Raises:
            DeviceError: If amqtt is not installed, or the port is taken.
        """
        try:
            from amqtt.broker import Broker as Implementation  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise DeviceError(
                "The embedded broker needs amqtt, which is not installed: "
                "pip install 'edgewise[demo]'."
            ) from error
        # It logs errors with a traceback when a client just leaves; they mean nothing to its user.
        logging.getLogger("amqtt").setLevel(logging.CRITICAL)
        logging.getLogger("transitions").setLevel(logging.CRITICAL)
        self._thread.start()
        tries = 1 if self._wanted_port else PORT_TRIES
        for attempt in range(1, tries + 1):
            self.port = self._wanted_port or _free_port()
            try:
                self._broker = self._call(self._start(Implementation), START_SECONDS)
            except Exception as error:
                if attempt == tries:
                    self._end_thread()
                    raise DeviceError(
                        f"The embedded broker cannot listen on {HOST}:{self.port}: {error}."
                    ) from error
            else:
                return

    async def _start(self, implementation: Any) -> Broker:
        broker: Broker = implementation(
            {
                "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{self.port}"}},
                "plugins": {
                    "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
                },
            }
        )
        broker._subscriptions = _Subscriptions()  # private, for want of a public way
        await broker.start()
        return broker

    def _call(self, work: Any, timeout: float) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def stop(self) -> None:
        """Stop the broker; its clients lose their connections."""
        if self._broker is not None:
            try:
                self._call(self._broker.shutdown(), STOP_SECONDS)
            except Exception:
                logger.exception("The embedded broker did not stop in an orderly way")
            self._broker = None
        self._end_thread()

    def _end_thread(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(Exception):  # pending tasks end with the loop either way
                self._call(self._cancel_tasks(), STOP_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_SECONDS)
            if not self._thread.is_alive():
                self._loop.close()

    async def _cancel_tasks(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

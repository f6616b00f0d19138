"""Brokers, a scripted model and a client that is not ours, for the tests of the device.

Rules: every broker listens on a free port of 127.0.0.1 and ends with its test; nothing waits for a
fixed time where an event can be waited for.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgewise.device.agent import Agent
from edgewise.device.agent_settings import AgentSettings
from edgewise.device.backoff import Backoff
from edgewise.device.broker_address import BrokerAddress
from edgewise.device.connection import Connection
from edgewise.device.embedded_broker import EmbeddedBroker
from edgewise.device.transport import ConnectOptions, Subscription
from edgewise.runtime.admission import Standing
from edgewise.runtime.generation import Piece, Statistics
from edgewise.runtime.options import GenerationOptions

MISSING = "{} is missing; install it with: apt-get install -y mosquitto mosquitto-clients openssl"
PATIENCE = 10.0  # seconds that anything may take before a test gives up


def need_tool(name: str) -> str:
    """The path of an installed program; without it the test is skipped, and in CI fails."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is not None:
        return path
    message = MISSING.format(name)
    if os.environ.get("CI"):
        pytest.fail(message)
    warnings.warn(message, stacklevel=2)
    pytest.skip(message)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Wait until the condition holds, and give its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        time.sleep(0.01)


@pytest.fixture(name="eventually", scope="session")
def eventually_fixture() -> Callable[..., Any]:
    return eventually


@pytest.fixture(name="need_tool", scope="session")
def need_tool_fixture() -> Callable[[str], str]:
    return need_tool


# The model


class Panic(BaseException):
    """What a library in Rust raises when it gives up."""


@dataclass
class ScriptedModel:
    """A model whose prompt says what it does.

    ``count N``: N words. ``hang``: one word, then nothing until ``release``. ``block``: nothing at
    all until ``release``. ``crash``: one word, then an exception. ``panic``: one that is no
    ``Exception``. ``swell``: a MemoryError. ``refuse``: an EdgewiseError.
    ``endless``: words until closed. Anything else comes back word by word.
    """

    prompts: list[Any] = field(default_factory=list)
    options: list[GenerationOptions] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    running: threading.Event = field(default_factory=threading.Event)
    closed: int = 0
    answers_at_once: int = 1

    def stream(
        self, prompt: Any, options: GenerationOptions, *, standing: Standing
    ) -> Generator[Piece, None, None]:
        self.prompts.append(prompt)
        self.options.append(options)
        self.standings.append(standing)
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        verb, _, rest = text.partition(" ")
        words = text.split()
        if verb == "refuse":
            from edgewise.common.errors import EdgewiseError

            raise EdgewiseError("The prompt has 9000 tokens, the context 2048: shorten it.")
        if verb == "swell":
            raise MemoryError
        if verb == "panic":
            raise Panic("called `Option::unwrap()` on a `None` value")
        if verb == "block":
            self.running.set()
            self.release.wait(PATIENCE)
        if verb == "count":
            words = [f"w{i}" for i in range(int(rest))]
        try:
            for index, word in enumerate(words):
                yield self._piece(f"{word} ", index, last=index == len(words) - 1)
                if verb in {"hang", "endless", "crash"}:
                    self.running.set()
                if verb == "hang":
                    self.release.wait(PATIENCE)
                if verb == "crash":
                    raise ZeroDivisionError("secret /home/someone/model.bin")
                while verb == "endless":
                    time.sleep(0.001)
                    yield self._piece("and ", index, last=False)
        finally:
            self.closed += 1

    @staticmethod
    def _piece(text: str, index: int, *, last: bool) -> Piece:
        if not last:
            return Piece(text, (index,))
        return Piece(text, (index,), "stop", Statistics(7, index + 1, 0.012, 583.0, 21.5, 123_456))


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    scripted = ScriptedModel()
    yield scripted
    scripted.release.set()


# Brokers


@dataclass
class RunningBroker:
    """A broker under test, and how to speak with it."""

    url: str
    port: int
    protocol: str


class Mosquitto:
    """A mosquitto of our own: configuration, start, stop, kill."""

    def __init__(self, folder: Path, lines: Sequence[str], *, listener: Sequence[str] = ()) -> None:
        self.port = free_port()
        self._program = need_tool("mosquitto")
        self._log = folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        user = ["user root"] if os.geteuid() == 0 else []
        base = [*user, "set_tcp_nodelay true", *lines, f"listener {self.port} 127.0.0.1", *listener]
        self._config.write_text("\n".join(base) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mosquitto:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-v", "-c", str(self._config)], stdout=log, stderr=log
            )

        def listening() -> bool:
            if self._process is not None and self._process.poll() is not None:
                raise AssertionError(f"mosquitto ended:\n{self.log}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        eventually(listening)
        return self

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self, *, kill: bool = False) -> None:
        if self._process is not None:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None


@pytest.fixture
def new_mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Start a mosquitto with some lines of configuration; it ends with the test."""
    with ExitStack() as stack:

        def start(*lines: str, listener: Sequence[str] = ()) -> Mosquitto:
            broker = Mosquitto(tmp_path, lines or ["allow_anonymous true"], listener=listener)
            stack.callback(broker.stop)
            return broker.start()

        yield start


@pytest.fixture(scope="session")
def shared_mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"), ["allow_anonymous true"])
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def shared_amqtt() -> Iterator[EmbeddedBroker]:
    pytest.importorskip("amqtt")
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(params=["mosquitto-5", "mosquitto-3.1.1", "amqtt-3.1.1"])
def broker(request: pytest.FixtureRequest) -> RunningBroker:
    """Each broker in each protocol it speaks."""
    name, protocol = request.param.split("-")
    running = request.getfixturevalue(f"shared_{name}")
    return RunningBroker(f"mqtt://127.0.0.1:{running.port}", running.port, protocol)


@pytest.fixture
def mosquitto_5(shared_mosquitto: Mosquitto) -> RunningBroker:
    port = shared_mosquitto.port
    return RunningBroker(f"mqtt://127.0.0.1:{port}", port, "5")


# Our connection


@pytest.fixture
def connect() -> Iterator[Callable[..., Connection]]:
    """Make a connection; it is closed with the test."""
    with ExitStack() as stack:

        def start(
            port: int,
            *filters: str,
            name: str = "tester",
            user: str | None = None,
            password: str | None = None,
            options: dict[str, Any] | None = None,
            **more: Any,
        ) -> Connection:
            address = BrokerAddress("127.0.0.1", port, user=user, password=password)
            more.setdefault("backoff", Backoff(first_seconds=0.05, maximum_seconds=0.2))
            connection = Connection(
                address,
                ConnectOptions(name, **(options or {})),
                subscriptions=[Subscription(one) for one in filters],
                **more,
            )
            stack.callback(connection.close, 0.5)
            connection.start()
            return connection

        yield start


# A client that is not ours


class Probe:
    """A plain paho client: sends anything, keeps everything."""

    def __init__(self, port: int, protocol: str) -> None:
        self.messages: list[MQTTMessage] = []
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self._is_5 = protocol == "5"
        version = MQTTv5 if self._is_5 else MQTTv311
        self.client = Client(CallbackAPIVersion.VERSION2, f"probe-{uuid.uuid4()}", protocol=version)
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_socket_open = lambda _client, _data, connection: connection.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        eventually(self.client.is_connected)

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def subscribe(self, topic_filter: str) -> None:
        self._subscribed.clear()
        self.client.subscribe(topic_filter, 1)
        assert self._subscribed.wait(PATIENCE)

    def publish(
        self,
        topic: str,
        payload: bytes | str | dict[str, Any],
        *,
        retain: bool = False,
        qos: int = 1,
        **properties: Any,
    ) -> None:
        given = None
        if properties and self._is_5:
            given = Properties(PacketTypes.PUBLISH)
            for name, value in properties.items():
                setattr(given, name, value)
        content = json.dumps(payload) if isinstance(payload, dict) else payload
        info = self.client.publish(topic, content, qos, retain, given)
        info.wait_for_publish(PATIENCE)

    def wait_for(
        self, condition: Callable[[MQTTMessage], bool], *, count: int = 1, timeout: float = PATIENCE
    ) -> list[MQTTMessage]:
        """Wait until ``count`` messages fulfil the condition, and give them."""

        def found() -> list[MQTTMessage]:
            return [message for message in self.messages if condition(message)]

        with self._changed:
            enough = self._changed.wait_for(lambda: len(found()) >= count, timeout)
            seen = [(message.topic, message.payload[:120]) for message in self.messages]
            assert enough, f"expected {count}, saw {seen}"
            return found()

    def ends(self, request_id: str) -> list[dict[str, Any]]:
        """All last replies to a request so far."""
        return [reply for reply in self.replies(request_id) if reply["fin"]]

    def replies(self, request_id: str) -> list[dict[str, Any]]:
        with self._changed:
            values = [json.loads(m.payload) for m in self.messages if "/rsp/" in m.topic]
        return [value for value in values if value.get("id") == request_id]

    def wait_for_end(self, request_id: str, *, count: int = 1) -> dict[str, Any]:
        def is_end(message: MQTTMessage) -> bool:
            if "/rsp/" not in message.topic:
                return False
            value = json.loads(message.payload)
            return value.get("id") == request_id and value["fin"] is True

        return json.loads(self.wait_for(is_end, count=count)[-1].payload)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def new_probe() -> Iterator[Callable[..., Probe]]:
    with ExitStack() as stack:

        def start(broker: RunningBroker, *, protocol: str | None = None) -> Probe:
            probe = Probe(broker.port, protocol or broker.protocol)
            stack.callback(probe.close)
            return probe

        yield start


# Agents


@dataclass
class Conversation:
    """An agent on a broker, and a probe that hears what it says to the client ``sensor``."""

    agent: Agent
    probe: Probe
    device: str
    broker: RunningBroker

    def ask(self, request_id: str, prompt: str = "hello", **fields: Any) -> None:
        self.put("generate", request_id, prompt=prompt, **fields)

    def put(self, verb: str, request_id: str, **fields: Any) -> None:
        payload = {"v": 1, "id": request_id, **fields}
        self.probe.publish(f"edgewise/{self.device}/req/sensor/{verb}", payload)

    def cancel(self, request_id: str) -> None:
        topic = f"edgewise/{self.device}/req/sensor/cancel"
        self.probe.publish(topic, {"v": 1, "id": request_id})


@pytest.fixture
def new_device() -> Callable[[], str]:
    return lambda: f"dev-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def converse(
    model: ScriptedModel, new_probe: Callable[..., Probe], new_device: Callable[[], str]
) -> Iterator[Callable[..., Conversation]]:
    """Start an agent on a broker, by default with the scripted model; it ends with the test."""
    with ExitStack() as stack:
        stack.callback(model.release.set)

        def start(
            broker: RunningBroker,
            *,
            answering: Any = None,
            memory_left: Callable[[], int | None] = lambda: None,
            **settings: Any,
        ) -> Conversation:
            device = new_device()
            numbers = {"chunk_interval_seconds": 0.0, "stop_grace_seconds": 0.5, **settings}
            agent = Agent(
                model if answering is None else answering,
                broker=broker.url,
                device=device,
                protocol=broker.protocol,
                settings=AgentSettings(**numbers),
                memory_left=memory_left,
            )
            agent.start()
            stack.callback(agent.stop)
            stack.callback(model.release.set)
            probe = new_probe(broker)
            probe.subscribe(f"edgewise/{device}/rsp/#")
            return Conversation(agent, probe, device, broker)

        yield start

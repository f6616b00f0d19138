"""The memory of an agent's process is as large after thousands of requests as after hundreds."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from edgewise.runtime.backends.fake_bundle import write_fake_bundle

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells the memory of a process"
)

MIB = 1024 * 1024
CLIENTS = 5
AT_ONCE = 8  # requests that are under way
REMEMBERED = 512  # ends of requests that an agent keeps; until then it may grow


def resident_bytes(process: subprocess.Popen[bytes]) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


class Crowd:
    """Clients that keep nothing of what they are told but how it ended."""

    def __init__(self, port: int, device: str) -> None:
        self._device = device
        self._places = threading.Semaphore(AT_ONCE)
        self._subscribed = threading.Event()
        self._asked = 0
        self.ends: dict[str, int] = {}
        self._client = Client(CallbackAPIVersion.VERSION2, f"crowd-of-{device}")
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe(f"edgewise/{device}/rsp/#", 0)
        assert self._subscribed.wait(10)

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        reply = json.loads(message.payload)
        if reply["fin"]:
            how = f"{reply['status']} {reply.get('code', '')}".strip()
            self.ends[how] = self.ends.get(how, 0) + 1
            self._places.release()

    def ask(self, count: int, **fields: Any) -> None:
        """Send requests, a few at a time, and wait for all ends."""
        for number in range(self._asked, self._asked + count):
            assert self._places.acquire(timeout=60)
            payload: dict[str, Any] = {"v": 1, "id": f"q{number}", "stream": number % 4 == 0}
            payload |= {"prompt": f"Question {number}?", **fields}
            if number % 50 == 7:
                payload["prompt"] = "far too long " * 1000
            topic = f"edgewise/{self._device}/req/sensor-{number % CLIENTS}/generate"
            self._client.publish(topic, json.dumps(payload), 0)
        self._asked += count
        for _ in range(AT_ONCE):
            assert self._places.acquire(timeout=60)
        self._places.release(AT_ONCE)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def crowd_at(
    shared_amqtt: Any, new_device: Callable[[], str]
) -> Iterator[Callable[[Path], SimpleNamespace]]:
    """Start an agent of its own process with a bundle, and a crowd that asks it."""
    with ExitStack() as stack:

        def start(bundle: Path) -> SimpleNamespace:
            device = new_device()
            command = [sys.executable, "-m", "edgewise.cli", "agent", "--bundle", str(bundle)]
            command += ["--device", device, "--broker", shared_amqtt.url, "--protocol", "3.1.1"]
            process = subprocess.Popen([*command, "--slots", "4"], stderr=subprocess.PIPE)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            assert process.stderr is not None
            said = iter(process.stderr.readline, b"")
            assert any(b"Connected to" in line for line in said)
            # A pipe that nobody reads from would fill up with what it says of each request.
            reader = threading.Thread(target=lambda: [None for _ in said], daemon=True)
            reader.start()
            crowd = Crowd(shared_amqtt.port, device)
            stack.callback(crowd.close)
            return SimpleNamespace(process=process, crowd=crowd)

        yield start


def test_it_is_flat_over_2000_requests(crowd_at: Any, tmp_path: Path) -> None:
    agent = crowd_at(write_fake_bundle(tmp_path / "bundle"))
    agent.crowd.ask(REMEMBERED + 88, max_tokens=3)
    before = resident_bytes(agent.process)
    agent.crowd.ask(2000, max_tokens=3)
    growth = resident_bytes(agent.process) - before
    assert agent.crowd.ends == {"ok": 2548, "error 400": 52}
    assert growth < 4 * MIB, f"{growth / MIB:.1f} MiB more after 2000 requests"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(600)  # on a machine that does other things as well
def test_it_is_flat_with_a_real_model(crowd_at: Any, smollm2: Any) -> None:
    agent = crowd_at(smollm2(None).bundle.path)
    agent.crowd.ask(60, max_tokens=4)
    before = resident_bytes(agent.process)
    agent.crowd.ask(100, max_tokens=4)
    growth = resident_bytes(agent.process) - before
    assert agent.crowd.ends == {"ok": 156, "error 400": 4}
    assert growth < 8 * MIB, f"{growth / MIB:.1f} MiB more after 100 requests"

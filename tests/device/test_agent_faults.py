"""What happens when something is killed: the agent, the broker, the connection."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgewise.device.announcements import parse_status
from edgewise.device.errors import AgentAbsentError
from edgewise.device.requester import Requester

AGENT = """
import sys, time
from edgewise.device.agent import Agent
from edgewise.device.agent_settings import AgentSettings
from edgewise.runtime.generation import Piece

class Slow:
    def stream(self, prompt, options, *, standing):
        for number in range(1000):
            yield Piece(f"{number} ", (number,))
            time.sleep(0.02)

settings = AgentSettings(will_delay_seconds=int(sys.argv[4]), stop_grace_seconds=0.1)
Agent(Slow(), broker=sys.argv[1], device=sys.argv[2], protocol=sys.argv[3], settings=settings).run()
"""


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Run an agent in a process of its own; it is killed with the test."""
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    with ExitStack() as stack:

        def start(broker: Any, device: str, *, will_delay: int = 0) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [sys.executable, script, broker.url, device, broker.protocol, str(will_delay)]
            )
            stack.callback(process.wait, 10)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def lasting_broker(new_mosquitto: Any, tmp_path: Path) -> Any:
    """A mosquitto that keeps its state over a restart."""
    return new_mosquitto(
        "allow_anonymous true",
        "persistence true",
        f"persistence_location {tmp_path}/",
        "autosave_interval 1",
        "autosave_on_changes true",
    )


def at(broker: Any, protocol: str) -> SimpleNamespace:
    url = f"mqtt://127.0.0.1:{broker.port}"
    return SimpleNamespace(url=url, port=broker.port, protocol=protocol)


def states(probe: Any, device: str) -> list[str]:
    topic = f"edgewise/{device}/status"
    return [parse_status(m.payload).state for m in probe.messages if m.topic == topic]


def test_a_killed_agent_is_offline_by_its_last_will(
    broker: Any, spawn: Any, new_probe: Any, new_device: Any, eventually: Any
) -> None:
    device = new_device()
    probe = new_probe(broker)
    probe.subscribe(f"edgewise/{device}/#")
    process = spawn(broker, device)
    eventually(lambda: states(probe, device) == ["online"])
    probe.publish(f"edgewise/{device}/req/sensor/generate", {"v": 1, "id": "q1", "prompt": "count"})
    probe.wait_for(lambda message: b'"seq":3' in message.payload)
    process.kill()
    eventually(lambda: states(probe, device) == ["online", "offline"])
    sessions = {
        parse_status(m.payload).session
        for m in probe.messages
        if m.topic == f"edgewise/{device}/status"
    }
    assert len(sessions) == 1
    late = new_probe(broker)
    late.subscribe(f"edgewise/{device}/status")
    eventually(lambda: states(late, device)[-1:] == ["offline"])  # amqtt sends it twice


def test_the_last_will_waits_for_an_agent_that_comes_back(
    mosquitto_5: Any, spawn: Any, new_probe: Any, new_device: Any, eventually: Any
) -> None:
    device = new_device()
    probe = new_probe(mosquitto_5)
    probe.subscribe(f"edgewise/{device}/#")
    first = spawn(mosquitto_5, device, will_delay=30)
    eventually(lambda: states(probe, device) == ["online"])
    first.kill()
    spawn(mosquitto_5, device, will_delay=30)
    eventually(lambda: len(states(probe, device)) == 2)
    assert states(probe, device) == ["online", "online"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_agent_in_an_orderly_way(
    mosquitto_5: Any, spawn: Any, new_probe: Any, new_device: Any, eventually: Any, number: int
) -> None:
    device = new_device()
    probe = new_probe(mosquitto_5)
    probe.subscribe(f"edgewise/{device}/#")
    process = spawn(mosquitto_5, device)
    eventually(lambda: states(probe, device) == ["online"])
    probe.publish(f"edgewise/{device}/req/sensor/generate", {"v": 1, "id": "q1", "prompt": "count"})
    probe.wait_for(lambda message: b'"seq":3' in message.payload)
    process.send_signal(number)
    final = probe.wait_for_end("q1")
    assert final["status"] == "interrupted"
    assert final["text"].startswith("0 1 2 3 ")
    assert process.wait(10) == 0
    eventually(lambda: states(probe, device) == ["online", "offline"])


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("kill", [False, True])
def test_a_broker_restart_in_mid_stream_costs_nothing(
    lasting_broker: Any, converse: Any, model: Any, eventually: Any, protocol: str, *, kill: bool
) -> None:
    running = at(lasting_broker, protocol)
    talk = converse(running)
    with Requester(running.url, client="reader", protocol=protocol) as requester:
        stream = requester.stream(talk.device, "endless", request_id="q1", deadline_seconds=60)
        text = ""
        for part in stream:
            text += part
            if len(text) > 50 and lasting_broker is not None:
                lasting_broker.stop(kill=kill)
                lasting_broker.start()
                lasting_broker = None
                stream.cancel()  # reaches the agent once both have come back
        assert stream.final is not None
        assert stream.final.status == "cancelled"
        assert text == stream.final.text
        assert model.prompts == ["endless"]
        eventually(lambda: talk.agent._connection.losses == 1)


def test_the_requester_gives_up_on_an_agent_that_was_killed(
    mosquitto_5: Any, spawn: Any, new_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgewise.device import answer_stream

    monkeypatch.setattr(answer_stream, "OFFLINE_GRACE_SECONDS", 0.2)
    device = new_device()
    process = spawn(mosquitto_5, device)
    with Requester(mosquitto_5.url, client="reader") as requester:
        parts = iter(requester.stream(device, "count"))
        assert next(parts) == "0 "
        process.kill()
        with pytest.raises(AgentAbsentError, match="went offline"):
            list(parts)


def test_the_requester_notices_that_the_agent_was_restarted(
    mosquitto_5: Any, spawn: Any, new_device: Any
) -> None:
    device = new_device()
    process = spawn(mosquitto_5, device, will_delay=30)
    with Requester(mosquitto_5.url, client="reader") as requester:
        parts = iter(requester.stream(device, "count"))
        assert next(parts) == "0 "
        process.kill()
        spawn(mosquitto_5, device, will_delay=30)
        with pytest.raises(AgentAbsentError, match="was restarted while it answered"):
            list(parts)


def test_an_agent_whose_broker_comes_back_empty_announces_itself_anew(
    new_mosquitto: Any, converse: Any, new_probe: Any, eventually: Any
) -> None:
    broker = new_mosquitto()
    running = at(broker, "5")
    talk = converse(running)
    broker.stop(kill=True)
    broker.start()
    probe = new_probe(running)
    probe.subscribe(f"edgewise/{talk.device}/#")
    eventually(lambda: states(probe, talk.device)[-1:] == ["online"])
    probe.publish(
        f"edgewise/{talk.device}/req/sensor/generate", {"v": 1, "id": "q2", "prompt": "back"}
    )
    assert probe.wait_for_end("q2")["text"] == "back "


def test_an_agent_is_not_put_off_by_an_old_info(
    mosquitto_5: Any, converse: Any, eventually: Any
) -> None:
    """A broker that was killed may come back with what an earlier run had announced."""
    talk = converse(mosquitto_5)
    old = talk.agent.topics.info
    talk.probe.publish(old, {"v": 1, "session": "an earlier run"}, retain=True)
    talk.probe.subscribe(talk.agent.topics.status)
    eventually(lambda: len(states(talk.probe, talk.device)) == 1)
    with ExitStack() as stack:
        # A plain client with the agent's id throws it out once.
        from paho.mqtt.client import Client, MQTTv5
        from paho.mqtt.enums import CallbackAPIVersion

        name = f"edgewise-{talk.device}-agent"
        intruder = Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTv5)
        intruder.connect("127.0.0.1", mosquitto_5.port)
        intruder.loop_start()
        stack.callback(intruder.loop_stop)
        eventually(lambda: talk.agent._connection.losses == 1)
        intruder.disconnect()
    eventually(lambda: len(states(talk.probe, talk.device)) >= 2)
    talk.ask("q1", "still here")
    assert talk.probe.wait_for_end("q1")["status"] == "ok"
    talk.agent.check()

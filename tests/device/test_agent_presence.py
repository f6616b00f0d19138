"""What an agent says of itself, how it stops, and what it does where it cannot start."""

import json
import threading
from typing import Any

import pytest

from edgewise.device.agent import Agent
from edgewise.device.agent_settings import AgentSettings
from edgewise.device.announcements import parse_status
from edgewise.device.errors import DeviceError
from edgewise.device.request_messages import MAX_REQUEST_BYTES


def announced(probe: Any, topic: str, count: int = 1) -> dict[str, Any]:
    return json.loads(probe.wait_for(lambda one: one.topic == topic, count=count)[-1].payload)


def test_what_the_agent_says_of_itself(broker: Any, converse: Any, new_probe: Any) -> None:
    talk = converse(broker)
    talk.ask("q1", "one")
    talk.probe.wait_for_end("q1")
    late = new_probe(broker)
    late.subscribe(f"edgewise/{talk.device}/+")
    status = announced(late, talk.agent.topics.status)
    info = announced(late, talk.agent.topics.info)
    health = announced(late, talk.agent.topics.health)
    assert status == {"v": 1, "status": "online", "session": talk.agent.session}
    assert info["verbs"] == ["generate", "cancel"]
    assert info["limits"]["request_bytes"] == MAX_REQUEST_BYTES
    assert info["versions"]["python"].startswith("3.")
    assert info["session"] == health["session"] == talk.agent.session
    assert (health["reconnects"], health["faults"]) == (0, 0)
    assert health["peak_rss_bytes"] > 1_000_000
    assert all(message.retain for message in late.messages)


def test_health_is_told_at_its_interval(mosquitto_5: Any, converse: Any) -> None:
    talk = converse(mosquitto_5, health_interval_seconds=0.05)
    talk.probe.subscribe(talk.agent.topics.health)
    talk.ask("q1", "one")
    talk.ask("q2", "refuse it")
    talk.ask("q3", "one", max_tokens=0)
    talk.cancel("q4")
    talk.probe.wait_for(
        lambda message: (
            message.topic == talk.agent.topics.health
            and b'"answered":1,' in message.payload
            and b'"failed":1,' in message.payload
            and b'"refused":1,' in message.payload
            and b'"tokens_per_second":21.5' in message.payload
        )
    )
    retained = [m for m in talk.probe.messages if m.topic == talk.agent.topics.health]
    assert retained[-1].properties.MessageExpiryInterval == 1


def test_stopping_lets_the_running_answer_end(broker: Any, converse: Any, model: Any) -> None:
    talk = converse(broker, stop_grace_seconds=10.0)
    talk.probe.subscribe(talk.agent.topics.status)
    talk.ask("runs", "hang on")
    assert model.running.wait(10)
    talk.ask("waits", "never")
    talk.probe.wait_for(lambda message: message.topic.endswith("/waits"))
    stopping = threading.Thread(target=talk.agent.stop)
    stopping.start()
    assert talk.probe.wait_for_end("waits")["status"] == "interrupted"
    talk.ask("late", "no")
    late = talk.probe.wait_for_end("late")
    assert (late["status"], late["code"]) == ("error", 503)
    model.release.set()
    assert talk.probe.wait_for_end("runs")["status"] == "ok"
    stopping.join(10)
    # amqtt sends other devices' retained messages as well
    last = talk.probe.wait_for(
        lambda message: message.topic == talk.agent.topics.status and b"offline" in message.payload
    )[0]
    assert parse_status(last.payload).session == talk.agent.session
    assert model.prompts == ["hang on"]
    talk.agent.stop()  # again: nothing


def test_stopping_interrupts_what_takes_too_long(mosquitto_5: Any, converse: Any) -> None:
    talk = converse(mosquitto_5, stop_grace_seconds=0.1)
    talk.ask("q1", "hang on")
    talk.probe.wait_for(lambda message: b'"seq"' in message.payload)
    talk.agent.stop()
    final = talk.probe.wait_for_end("q1")
    assert (final["status"], final["text"]) == ("interrupted", "hang ")


def test_run_ends_on_request_from_another_thread(
    mosquitto_5: Any, model: Any, new_device: Any, eventually: Any
) -> None:
    agent = Agent(model, broker=mosquitto_5.url, device=new_device())
    thread = threading.Thread(target=agent.run)
    thread.start()
    eventually(lambda: agent.protocol == "5")
    agent.request_stop()
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(DeviceError, match="closed"):
        agent.check()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_one_of_two_agents_of_one_name_gives_way(
    mosquitto_5: Any, model: Any, new_device: Any, new_probe: Any, eventually: Any, protocol: str
) -> None:
    device = new_device()
    names = {"broker": mosquitto_5.url, "device": device, "protocol": protocol}
    errors: dict[Agent, str] = {}

    def gives_way(agent: Agent) -> bool:
        try:
            agent.check()
        except DeviceError as error:
            errors[agent] = str(error)
        return agent in errors

    with Agent(model, **names) as first, Agent(model, **names) as second:
        eventually(lambda: gives_way(first) or gives_way(second), timeout=60)
        assert len(errors) == 1
        ((loser, message),) = errors.items()
        winner = second if loser is first else first
        assert message.startswith(f"Another agent named '{device}' has taken this one's place.")
        loser.stop()
        probe = new_probe(mosquitto_5)
        probe.subscribe(f"edgewise/{device}/#")
        probe.wait_for(
            lambda one: (
                one.topic == winner.topics.status
                and parse_status(one.payload).state == "online"
                and parse_status(one.payload).session == winner.session
            )
        )
        probe.publish(
            f"edgewise/{device}/req/sensor/generate", {"v": 1, "id": "q1", "prompt": "who"}
        )
        assert probe.wait_for_end("q1")["text"] == "who "
        winner.check()


def test_a_late_last_will_is_corrected(mosquitto_5: Any, converse: Any, eventually: Any) -> None:
    talk = converse(mosquitto_5)
    talk.probe.subscribe(talk.agent.topics.status)
    stale = {"v": 1, "status": "offline", "session": "an earlier run"}
    talk.probe.publish(talk.agent.topics.status, stale, retain=True)
    eventually(lambda: b"online" in talk.probe.messages[-1].payload)
    assert parse_status(talk.probe.messages[-1].payload).session == talk.agent.session
    talk.probe.publish(talk.agent.topics.status, b"rubbish", retain=False)
    talk.ask("q1", "one")
    talk.probe.wait_for_end("q1")


def test_an_agent_without_a_broker_says_so(model: Any) -> None:
    agent = Agent(
        model,
        broker="mqtt://127.0.0.1:1",
        device="pi",
        settings=AgentSettings(wait_for_broker_seconds=0.2),
    )
    with pytest.raises(DeviceError, match=r"127\.0\.0\.1:1"):
        agent.start()


def test_waiting_for_the_broker_ends_when_the_agent_shall_stop(model: Any) -> None:
    settings = AgentSettings(wait_for_broker_seconds=3600)
    agent = Agent(model, broker="mqtt://127.0.0.1:1", device="pi", settings=settings)
    thread = threading.Thread(target=agent.run)
    thread.start()
    agent.request_stop()
    thread.join(10)
    assert not thread.is_alive()


def test_an_agent_may_start_before_its_broker(
    new_mosquitto: Any, model: Any, new_probe: Any, eventually: Any
) -> None:
    from types import SimpleNamespace

    running = new_mosquitto()
    running.stop()
    settings = AgentSettings(wait_for_broker_seconds=None)
    url = f"mqtt://127.0.0.1:{running.port}"
    with Agent(model, broker=url, device="early", settings=settings):
        running.start()
        probe = new_probe(SimpleNamespace(port=running.port, protocol="5"))
        probe.subscribe("edgewise/early/status")
        probe.wait_for(lambda message: b"online" in message.payload)


@pytest.mark.parametrize(
    "wrong",
    [{"queue_size": 0}, {"chunk_qos": 2}, {"default_tokens": 5000}, {"max_deadline_seconds": -1}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DeviceError, match=next(iter(wrong))):
        AgentSettings(**wrong)


def test_names_that_cannot_be_topics_are_refused(model: Any) -> None:
    for names in ({"device": "a/b"}, {"device": "pi", "root": "#"}):
        with pytest.raises(DeviceError):
            Agent(model, broker="mqtt://127.0.0.1", **names)

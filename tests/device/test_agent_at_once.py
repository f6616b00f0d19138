"""Several requests at once: each has its own answer, end and place; on real brokers."""

import json
import threading
from typing import Any

import pytest


@pytest.fixture
def at_once(converse: Any, model: Any) -> Any:
    """Start an agent whose model computes a number of answers at once."""

    def start(broker: Any, slots: int, **settings: Any) -> Any:
        model.answers_at_once = slots
        return converse(broker, **settings)

    return start


def test_one_answer_does_not_wait_for_another(broker: Any, at_once: Any, model: Any) -> None:
    talk = at_once(broker, 2)
    talk.ask("long", "hang on")
    assert model.running.wait(10)
    talk.ask("short", "one two")
    assert talk.probe.wait_for_end("short")["text"] == "one two "
    assert talk.probe.ends("long") == []
    model.release.set()
    assert talk.probe.wait_for_end("long")["text"] == "hang on "


def test_who_finds_every_slot_taken_is_told_that_it_waits(
    mosquitto_5: Any, at_once: Any, model: Any, eventually: Any
) -> None:
    talk = at_once(mosquitto_5, 2, queue_size=2)
    for number in range(2):
        talk.ask(f"runs {number}".replace(" ", "-"), "hang")
    eventually(lambda: len(model.prompts) == 2)
    for number, depth in ((1, 0), (2, 1)):
        talk.ask(f"waits-{number}", f"later {number}")
        talk.probe.wait_for(lambda m, end=f"/waits-{number}": m.topic.endswith(end))
        accepted = talk.probe.replies(f"waits-{number}")[0]
        assert (accepted["status"], accepted["queue_depth"]) == ("accepted", depth)
    talk.ask("refused", "too many")
    busy = talk.probe.wait_for_end("refused")
    assert (busy["status"], busy["code"], busy["queue_depth"]) == ("busy", 429, 2)
    model.release.set()
    for name in ("runs-0", "runs-1", "waits-1", "waits-2"):
        assert talk.probe.wait_for_end(name)["status"] == "ok"
    assert sorted(model.prompts) == ["hang", "hang", "later 1", "later 2"]


def test_each_is_cancelled_alone(broker: Any, at_once: Any, model: Any, eventually: Any) -> None:
    talk = at_once(broker, 3)
    for name in ("a", "b", "c"):
        talk.ask(name, f"endless {name}")
    eventually(lambda: len(model.prompts) == 3)
    for count, name in enumerate(("b", "a", "c"), 1):
        talk.cancel(name)
        final = talk.probe.wait_for_end(name)
        assert final["status"] == "cancelled"
        assert final["text"].startswith("endless and ")
        eventually(lambda count=count: model.closed == count)
        running = [one for one in ("a", "b", "c") if not talk.probe.ends(one)]
        assert len(running) == 3 - count


def test_each_ends_at_its_own_deadline(mosquitto_5: Any, at_once: Any, eventually: Any) -> None:
    talk = at_once(mosquitto_5, 3)
    talk.ask("early", "endless", deadline_ms=150)
    talk.ask("late", "block", deadline_ms=400)
    talk.ask("open", "endless")
    early, late = (talk.probe.wait_for_end(name) for name in ("early", "late"))
    assert (early["status"], late["status"]) == ("timeout", "timeout")
    assert early["usage"]["total_ms"] >= 150
    assert late["usage"]["total_ms"] >= 400
    assert talk.probe.ends("open") == []
    talk.cancel("open")
    assert talk.probe.wait_for_end("open")["status"] == "cancelled"


def test_a_failure_is_that_of_its_request_alone(
    broker: Any, at_once: Any, model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "edgewise.device.worker")
    talk = at_once(broker, 2)
    talk.ask("good", "hang on")
    assert model.running.wait(10)
    talk.ask("crash", "crash now")
    assert talk.probe.wait_for_end("crash")["code"] == 500
    talk.ask("refuse", "refuse this")
    assert talk.probe.wait_for_end("refuse")["code"] == 400
    model.release.set()
    assert talk.probe.wait_for_end("good")["text"] == "hang on "
    talk.agent.check()


def test_client_priority_and_deadline_reach_the_scheduler(
    mosquitto_5: Any, at_once: Any, model: Any
) -> None:
    talk = at_once(mosquitto_5, 2)
    talk.ask("q1", "one", priority=8, deadline_ms=60_000)
    talk.probe.wait_for_end("q1")
    talk.ask("q2", "two", priority=0, deadline_ms=1000)
    talk.probe.wait_for_end("q2")
    first, second = model.standings
    assert (first.client, first.priority) == ("sensor", 8)
    assert (second.client, second.priority) == ("sensor", 0)
    assert 58 < first.deadline - second.deadline < 59.1


def test_a_greedy_client_does_not_hold_up_a_quiet_one(
    mosquitto_5: Any, at_once: Any, model: Any, eventually: Any
) -> None:
    talk = at_once(mosquitto_5, 2, queue_size=20)
    for number in range(2):
        talk.ask(f"first-{number}", "hang")
    eventually(lambda: len(model.prompts) == 2)
    for number in range(8):
        talk.ask(f"more-{number}", f"count {50 + number}")
    topic = f"edgewise/{talk.device}/req/quiet/generate"
    talk.probe.publish(topic, {"v": 1, "id": "quiet", "prompt": "me too"})
    talk.probe.wait_for(lambda message: message.topic.endswith("/quiet/quiet"))
    model.release.set()
    talk.probe.wait_for_end("more-7")
    assert model.prompts.index("me too") <= 5  # two that began, and those that were on their way


def test_all_that_run_are_ended_when_the_agent_stops(
    broker: Any, at_once: Any, model: Any, eventually: Any
) -> None:
    talk = at_once(broker, 3, stop_grace_seconds=0.2)
    for name, prompt in (("a", "endless"), ("b", "block"), ("c", "endless")):
        talk.ask(name, prompt)
    eventually(lambda: len(model.prompts) == 3)
    talk.ask("waits", "never")
    talk.probe.wait_for(lambda message: message.topic.endswith("/waits"))
    talk.agent.stop()
    ends = {name: talk.probe.wait_for_end(name) for name in ("a", "b", "c", "waits")}
    assert {end["status"] for end in ends.values()} == {"interrupted"}
    assert ends["a"]["text"].startswith("endless and ")
    assert ends["waits"]["text"] == ""


def test_running_answers_may_end_when_the_agent_stops(
    mosquitto_5: Any, at_once: Any, model: Any, eventually: Any
) -> None:
    talk = at_once(mosquitto_5, 2, stop_grace_seconds=10)
    for name in ("a", "b"):
        talk.ask(name, f"hang {name}")
    eventually(lambda: len(model.prompts) == 2)
    stopping = threading.Thread(target=talk.agent.stop)
    stopping.start()
    talk.ask("late", "no more")
    assert talk.probe.wait_for_end("late")["code"] == 503
    model.release.set()
    stopping.join(10)
    for name in ("a", "b"):
        final = talk.probe.wait_for_end(name)
        assert (final["status"], final["text"]) == ("ok", f"hang {name} ")


def test_the_agent_says_how_many_run_and_wait(
    mosquitto_5: Any, at_once: Any, model: Any, eventually: Any
) -> None:
    talk = at_once(mosquitto_5, 2, health_interval_seconds=0.05)
    topics = talk.agent.topics
    for subject in (topics.health, topics.info):
        talk.probe.subscribe(subject)
        talk.probe.wait_for(lambda message, topic=subject: message.topic == topic)
    for number in range(3):
        talk.ask(f"q{number}", "hang")

    def latest(topic: str) -> dict[str, Any]:
        return json.loads([m for m in talk.probe.messages if m.topic == topic][-1].payload)

    def numbers() -> tuple[int, int, int]:
        health = latest(topics.health)
        return health["slots"], health["running"], health["queue_depth"]

    eventually(lambda: numbers() == (2, 2, 1))
    assert latest(topics.info)["limits"]["slots"] == 2
    model.release.set()
    eventually(lambda: numbers() == (2, 0, 0))
    health = latest(topics.health)
    assert (health["answered"], health["prompt_tokens"], health["reused_tokens"]) == (3, 21, 0)

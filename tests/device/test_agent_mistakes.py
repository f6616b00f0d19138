"""The agent on real brokers, given what it must not take: attacks, mistakes, faults of a model."""

import json
import uuid
from typing import Any

import pytest

from edgewise.device.agent import Agent
from edgewise.device.request_messages import MAX_REQUEST_BYTES


def test_a_retained_request_is_ignored(
    broker: Any, model: Any, new_probe: Any, new_device: Any
) -> None:
    device = new_device()
    probe = new_probe(broker)
    probe.subscribe(f"edgewise/{device}/rsp/#")
    topic = f"edgewise/{device}/req/sensor/generate"
    probe.publish(topic, {"v": 1, "id": "old", "prompt": "again"}, retain=True)
    with Agent(model, broker=broker.url, device=device, protocol=broker.protocol):
        probe.publish(topic, {"v": 1, "id": "new", "prompt": "fresh"})
        probe.wait_for_end("new")
        assert probe.replies("old") == []
        assert model.prompts == ["fresh"]
    probe.publish(topic, b"", retain=True)


def test_a_request_that_is_being_retained_is_ignored_in_5(
    mosquitto_5: Any, converse: Any, model: Any
) -> None:
    talk = converse(mosquitto_5)
    topic = f"edgewise/{talk.device}/req/sensor/generate"
    talk.probe.publish(topic, {"v": 1, "id": "kept", "prompt": "again"}, retain=True)
    talk.ask("q1", "fresh")
    talk.probe.wait_for_end("q1")
    assert model.prompts == ["fresh"]
    talk.probe.publish(topic, b"", retain=True)


def test_a_foreign_response_topic_is_refused(mosquitto_5: Any, converse: Any, model: Any) -> None:
    talk = converse(mosquitto_5)
    talk.probe.subscribe(f"edgewise/{talk.device}/ota/#")
    payload = {"v": 1, "id": "q1", "prompt": "evil"}
    for verb in ("generate", "cancel"):
        content = payload if verb == "generate" else {"v": 1, "id": "q1"}
        talk.probe.publish(
            f"edgewise/{talk.device}/req/sensor/{verb}",
            content,
            ResponseTopic=f"edgewise/{talk.device}/ota/cmd",
            CorrelationData=b"c",
        )
    error = talk.probe.wait_for_end("q1", count=2)
    assert (error["status"], error["code"]) == ("error", 403)
    talk.ask("q2", "good")
    talk.probe.wait_for_end("q2")
    assert model.prompts == ["good"]
    topics = {message.topic for message in talk.probe.messages}
    assert topics == {f"edgewise/{talk.device}/rsp/sensor/{name}" for name in ("q1", "q2")}


def test_an_own_response_topic_and_the_correlation_are_used(
    mosquitto_5: Any, converse: Any
) -> None:
    talk = converse(mosquitto_5)
    topic = f"edgewise/{talk.device}/rsp/sensor/answers"
    correlation = uuid.uuid4().bytes
    talk.probe.publish(
        f"edgewise/{talk.device}/req/sensor/generate",
        {"v": 1, "id": "q1", "prompt": "one"},
        ResponseTopic=topic,
        CorrelationData=correlation,
        MessageExpiryInterval=60,
    )
    talk.probe.wait_for_end("q1")
    for message in talk.probe.messages:
        assert message.topic == topic
        assert message.properties.CorrelationData == correlation
        assert message.properties.ContentType == "application/json"
        assert message.properties.PayloadFormatIndicator == 1
        final = b'"fin":true' in message.payload
        assert 55 <= message.properties.MessageExpiryInterval <= (90 if final else 60)


def test_a_response_topic_without_correlation_is_answered(mosquitto_5: Any, converse: Any) -> None:
    talk = converse(mosquitto_5)
    talk.probe.publish(
        f"edgewise/{talk.device}/req/sensor/generate",
        {"v": 1, "id": "q1", "prompt": "one"},
        ResponseTopic=f"edgewise/{talk.device}/rsp/sensor/q1",
    )
    assert talk.probe.wait_for_end("q1")["text"] == "one "
    assert not hasattr(talk.probe.messages[-1].properties, "CorrelationData")


def test_a_flood_of_rubbish_does_not_keep_a_good_request_from_its_answer(
    broker: Any, converse: Any, model: Any
) -> None:
    talk = converse(broker)
    rubbish = [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"v":1,"id":"bad","prompt":"x","max_tokens":0}',
        b'{"v":1,"id":"bad","prompt":NaN}',
        b'{"v":1,"id":"bad","prompt":"x","prompt":"y"}',
        b'{"v":1,"id":"bad","prompt":"\\ud800"}',
        b'{"v":1,"id":"../../x","prompt":"x"}',
        b'{"v":1,"id":"bad","prompt":"x","max_tokens":1e999}',
        b'"' + b'\\"' * 60_000,
    ]
    topic = f"edgewise/{talk.device}/req/sensor/generate"
    for number in range(200):
        talk.probe.client.publish(topic, rubbish[number % len(rubbish)], 1)
        if number == 100:
            talk.ask("good", "still here")
    assert talk.probe.wait_for_end("good")["text"] == "still here "
    talk.ask("after", "still here too")
    assert talk.probe.wait_for_end("after")["status"] == "ok"
    assert model.prompts == ["still here", "still here too"]
    assert {end["code"] for end in talk.probe.ends("bad")} == {400}
    assert {end["code"] for end in talk.probe.ends("unreadable")} == {400}
    talk.agent.check()


def test_mistakes_are_explained_to_who_made_them(mosquitto_5: Any, converse: Any) -> None:
    talk = converse(mosquitto_5, max_tokens=100, default_tokens=10)
    request = f"edgewise/{talk.device}/req/sensor"
    talk.ask("many", max_tokens=101)
    talk.probe.publish(f"{request}/classify", {"v": 1, "id": "verb", "text": "x"})
    talk.probe.publish(f"{request}/generate", b"x" * (MAX_REQUEST_BYTES + 1))
    talk.ask("field", scheme={"type": "object"})
    many = talk.probe.wait_for_end("many")
    assert (many["code"], "at most" in many["message"] or "up to 100" in many["message"]) == (
        400,
        True,
    )
    verb = talk.probe.wait_for_end("verb")
    assert verb["code"] == 501
    assert "generate, cancel" in verb["message"]
    assert talk.probe.wait_for_end("unreadable")["code"] == 413
    assert "'scheme'" in talk.probe.wait_for_end("field")["message"]


def test_topics_that_are_nearly_requests_are_ignored(
    mosquitto_5: Any, converse: Any, model: Any
) -> None:
    talk = converse(mosquitto_5)
    payload = {"v": 1, "id": "q1", "prompt": "x"}
    for name in ("$sensor", " ", "a b", "x" * 65):
        talk.probe.publish(f"edgewise/{talk.device}/req/{name}/generate", payload)
    talk.ask("q2", "yes")
    talk.probe.wait_for_end("q2")
    assert model.prompts == ["yes"]


def test_an_exception_of_the_model_ends_its_request_only(
    broker: Any, converse: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "edgewise.device.worker")
    talk = converse(broker)
    talk.ask("q1", "crash now")
    error = talk.probe.wait_for_end("q1")
    assert (error["status"], error["code"]) == ("error", 500)
    assert "secret" not in json.dumps(error)
    assert "ZeroDivision" not in json.dumps(error)
    talk.ask("q2", "fine")
    assert talk.probe.wait_for_end("q2")["status"] == "ok"
    talk.agent.check()


@pytest.mark.parametrize(("prompt", "code"), [("panic now", 500), ("swell now", 507)])
def test_a_panic_or_a_lack_of_memory_ends_its_request_only(
    mosquitto_5: Any, converse: Any, caplog: pytest.LogCaptureFixture, prompt: str, code: int
) -> None:
    caplog.set_level("CRITICAL", "edgewise.device.worker")
    talk = converse(mosquitto_5)
    talk.ask("q1", prompt)
    assert talk.probe.wait_for_end("q1")["code"] == code
    talk.ask("q2", "fine")
    assert talk.probe.wait_for_end("q2")["status"] == "ok"
    talk.agent.check()


def test_an_error_that_is_the_requesters_reaches_the_requester(broker: Any, converse: Any) -> None:
    talk = converse(broker)
    talk.ask("q1", "refuse this")
    error = talk.probe.wait_for_end("q1")
    assert (error["code"], error["message"]) == (
        400,
        "The prompt has 9000 tokens, the context 2048: shorten it.",
    )


def test_options_the_model_does_not_take_are_the_requesters(
    mosquitto_5: Any, converse: Any
) -> None:
    talk = converse(mosquitto_5)
    talk.ask("q1", "x", top_p=0)
    error = talk.probe.wait_for_end("q1")
    assert error["code"] == 400
    assert "top_p" in error["message"]


def test_an_answer_the_broker_does_not_take_is_an_error(new_mosquitto: Any, converse: Any) -> None:
    from types import SimpleNamespace

    running = new_mosquitto("allow_anonymous true", "max_packet_size 3000")
    broker = SimpleNamespace(
        url=f"mqtt://127.0.0.1:{running.port}", port=running.port, protocol="5"
    )
    talk = converse(broker)
    talk.ask("q1", "count 1000", stream=False)
    error = talk.probe.wait_for_end("q1")
    assert (error["code"], "fewer tokens" in error["message"]) == (413, True)
    talk.ask("q2", "short")
    assert talk.probe.wait_for_end("q2")["status"] == "ok"

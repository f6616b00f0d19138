"""The agent on real brokers, spoken to by a plain client: answers, refusals, cancels, deadlines."""

import hashlib
import json
import threading
import uuid
from typing import Any

import pytest

from edgewise.device.agent import Agent
from edgewise.device.agent_settings import AgentSettings
from edgewise.device.announcements import parse_status
from edgewise.device.errors import DeviceError
from edgewise.device.request_messages import MAX_REQUEST_BYTES


def text_of(replies: list[dict[str, Any]]) -> str:
    chunks = [reply for reply in replies if "seq" in reply]
    assert [chunk["seq"] for chunk in chunks] == list(range(len(chunks)))
    return "".join(chunk["text"] for chunk in chunks)


def test_a_request_is_answered_in_chunks_and_a_final(
    broker: Any, converse: Any, model: Any
) -> None:
    talk = converse(broker)
    talk.ask("q1", "one two three", max_tokens=5, temperature=0.5, seed=7, stop=["x"], raw=True)
    final = talk.probe.wait_for_end("q1")
    replies = talk.probe.replies("q1")
    assert replies[0] == {"v": 1, "id": "q1", "fin": False, "status": "accepted", "queue_depth": 0}
    assert text_of(replies) == final["text"] == "one two three "
    assert final["status"] == "ok"
    assert final["finish_reason"] == "stop"
    assert final["n_chunks"] == len(replies) - 2
    assert final["sha256"] == hashlib.sha256(final["text"].encode()).hexdigest()
    usage = final["usage"]
    assert usage["prompt_tokens"] == 7
    assert usage["generated_tokens"] == 3
    assert usage["time_to_first_token_ms"] == 12
    assert usage["tokens_per_second"] == 21.5
    assert usage["peak_rss_bytes"] == 123_456
    assert replies[-1] == final
    topics = {message.topic for message in talk.probe.messages if "/rsp/" in message.topic}
    assert topics == {f"edgewise/{talk.device}/rsp/sensor/q1"}
    assert model.prompts == ["one two three"]
    options = model.options[0]
    assert (options.max_tokens, options.temperature, options.seed) == (5, 0.5, 7)
    assert (options.stop, options.raw) == (("x",), True)


def test_a_conversation_reaches_the_model(broker: Any, converse: Any, model: Any) -> None:
    talk = converse(broker, default_tokens=33)
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi you"}]
    topic = f"edgewise/{talk.device}/req/sensor/generate"
    talk.probe.publish(topic, {"v": 1, "id": "chat", "messages": messages})
    assert talk.probe.wait_for_end("chat")["text"] == "Hi you "
    assert model.prompts == [messages]
    assert model.options[0].max_tokens == 33


def test_without_streaming_the_final_is_the_only_reply(broker: Any, converse: Any) -> None:
    talk = converse(broker)
    talk.ask("q1", "one two", stream=False)
    final = talk.probe.wait_for_end("q1")
    assert (final["text"], final["n_chunks"]) == ("one two ", 0)
    assert talk.probe.replies("q1") == [final]


def test_tokens_are_gathered_into_chunks(mosquitto_5: Any, converse: Any) -> None:
    talk = converse(mosquitto_5, chunk_interval_seconds=30.0)
    talk.ask("q1", "count 200")
    final = talk.probe.wait_for_end("q1")
    assert final["n_chunks"] == 2  # the first word at once, the rest with the end
    assert text_of(talk.probe.replies("q1")) == final["text"]


def test_text_of_any_script_arrives_whole(broker: Any, converse: Any) -> None:
    talk = converse(broker)
    prompt = "Grüße 猫が 👩‍👩‍👧 \u202eabc e\u0301 \x00 \\u0041"
    talk.ask("q1", prompt)
    assert talk.probe.wait_for_end("q1")["text"] == "".join(f"{w} " for w in prompt.split())


# Queue


def test_a_full_queue_says_busy(broker: Any, converse: Any, model: Any) -> None:
    talk = converse(broker, queue_size=1)
    talk.ask("runs", "hang")
    assert model.running.wait(10)
    talk.ask("waits", "two")
    talk.probe.wait_for(lambda message: message.topic.endswith("/waits"))
    talk.ask("refused", "three")
    busy = talk.probe.wait_for_end("refused")
    assert busy["status"] == "busy"
    assert busy["code"] == 429
    assert busy["queue_depth"] == 1
    assert 250 <= busy["retry_after_ms"] <= 60_000
    model.release.set()
    assert talk.probe.wait_for_end("waits")["status"] == "ok"
    talk.ask("refused", "three")  # the same id: nothing had been started
    assert talk.probe.wait_for_end("refused", count=2)["status"] == "ok"
    assert model.prompts == ["hang", "two", "three"]


def test_higher_priority_goes_first(mosquitto_5: Any, converse: Any, model: Any) -> None:
    talk = converse(mosquitto_5)
    talk.ask("first", "hang")
    assert model.running.wait(10)
    for name, priority in (("low", 1), ("middle", 5), ("high", 9)):
        talk.ask(name, name, priority=priority)
    talk.probe.wait_for(lambda message: message.topic.endswith("/high"))
    model.release.set()
    talk.probe.wait_for_end("low")
    assert model.prompts == ["hang", "high", "middle", "low"]


# Cancel


def test_a_running_request_is_cancelled(broker: Any, converse: Any, model: Any) -> None:
    talk = converse(broker)
    talk.ask("q1", "endless")
    assert model.running.wait(10)
    talk.cancel("q1")
    final = talk.probe.wait_for_end("q1")
    assert final["status"] == "cancelled"
    assert final["text"].startswith("endless ")
    assert text_of(talk.probe.replies("q1")) == final["text"]
    talk.ask("q2", "next one")  # the model was let go
    assert talk.probe.wait_for_end("q2")["status"] == "ok"
    assert model.closed == 2


def test_a_cancel_does_not_wait_for_the_model(mosquitto_5: Any, converse: Any, model: Any) -> None:
    talk = converse(mosquitto_5)
    talk.ask("q1", "block")
    assert model.running.wait(10)
    talk.cancel("q1")
    final = talk.probe.wait_for_end("q1")
    assert (final["status"], final["text"], final["n_chunks"]) == ("cancelled", "", 0)
    assert not model.release.is_set()


def test_a_waiting_request_is_cancelled_and_never_runs(
    mosquitto_5: Any, converse: Any, model: Any
) -> None:
    talk = converse(mosquitto_5, queue_size=1)
    talk.ask("runs", "hang")
    assert model.running.wait(10)
    talk.ask("waits", "never")
    talk.cancel("waits")
    assert talk.probe.wait_for_end("waits")["status"] == "cancelled"
    talk.ask("other", "its place is free")
    model.release.set()
    assert talk.probe.wait_for_end("other")["status"] == "ok"
    assert model.prompts == ["hang", "its place is free"]


def test_a_request_that_comes_after_its_cancel_never_runs(
    broker: Any, converse: Any, model: Any
) -> None:
    talk = converse(broker)
    talk.cancel("q1")
    assert talk.probe.wait_for_end("q1")["status"] == "cancelled"
    talk.ask("q1", "straggler")
    assert talk.probe.wait_for_end("q1", count=2)["status"] == "cancelled"
    assert model.prompts == []


def test_a_cancel_after_the_end_gives_the_end_again(mosquitto_5: Any, converse: Any) -> None:
    talk = converse(mosquitto_5)
    talk.ask("q1", "one")
    final = talk.probe.wait_for_end("q1")
    talk.cancel("q1")
    assert talk.probe.wait_for_end("q1", count=2) == final


def test_nobody_cancels_for_another(mosquitto_5: Any, converse: Any, model: Any) -> None:
    talk = converse(mosquitto_5)
    talk.ask("q1", "hang on")
    assert model.running.wait(10)
    talk.probe.publish(f"edgewise/{talk.device}/req/other/cancel", {"v": 1, "id": "q1"})
    talk.probe.wait_for(lambda message: "/rsp/other/" in message.topic)
    model.release.set()
    talk.probe.wait_for(lambda message: b'"ok"' in message.payload)


# Deadlines


def test_a_running_request_ends_at_its_deadline(broker: Any, converse: Any, model: Any) -> None:
    talk = converse(broker)
    talk.ask("q1", "block", deadline_ms=200)
    final = talk.probe.wait_for_end("q1")
    assert (final["status"], final["text"]) == ("timeout", "")
    assert final["usage"]["total_ms"] >= 200
    assert not model.release.is_set()


def test_a_deadline_cuts_a_stream_and_keeps_what_there_is(mosquitto_5: Any, converse: Any) -> None:
    talk = converse(mosquitto_5)
    talk.ask("q1", "endless", deadline_ms=300)
    final = talk.probe.wait_for_end("q1")
    assert final["status"] == "timeout"
    assert final["text"].startswith("endless and and ")
    assert text_of(talk.probe.replies("q1")) == final["text"]


def test_a_waiting_request_ends_at_its_deadline_and_never_runs(
    mosquitto_5: Any, converse: Any, model: Any
) -> None:
    talk = converse(mosquitto_5)
    talk.ask("runs", "hang")
    assert model.running.wait(10)
    talk.ask("waits", "never", deadline_ms=100)
    assert talk.probe.wait_for_end("waits")["status"] == "timeout"
    model.release.set()
    talk.ask("last", "yes")
    talk.probe.wait_for_end("last")
    assert model.prompts == ["hang", "yes"]


def test_the_message_expiry_is_a_deadline_too(mosquitto_5: Any, converse: Any) -> None:
    talk = converse(mosquitto_5)
    payload = {"v": 1, "id": "q1", "prompt": "block", "deadline_ms": 60_000}
    topic = f"edgewise/{talk.device}/req/sensor/generate"
    talk.probe.publish(topic, payload, MessageExpiryInterval=1)
    final = talk.probe.wait_for_end("q1")
    assert final["status"] == "timeout"
    assert final["usage"]["total_ms"] >= 1000


def test_the_agent_has_a_longest_deadline_of_its_own(mosquitto_5: Any, converse: Any) -> None:
    talk = converse(mosquitto_5, max_deadline_seconds=0.2)
    talk.ask("q1", "block")
    talk.ask("q2", "block", deadline_ms=86_400_000)
    assert talk.probe.wait_for_end("q1")["status"] == "timeout"
    assert talk.probe.wait_for_end("q2")["status"] == "timeout"


# Repeats


def test_a_repeat_is_not_run_again(broker: Any, converse: Any, model: Any) -> None:
    talk = converse(broker)
    talk.ask("q1", "hang on")
    assert model.running.wait(10)
    talk.ask("q1", "hang on")
    talk.probe.wait_for(lambda message: b"accepted" in message.payload, count=2)
    model.release.set()
    final = talk.probe.wait_for_end("q1")
    talk.ask("q1", "hang on")
    assert talk.probe.wait_for_end("q1", count=2) == final
    assert model.prompts == ["hang on"]


def test_the_same_id_with_another_content_is_an_error(
    broker: Any, converse: Any, model: Any
) -> None:
    talk = converse(broker)
    talk.ask("q1", "one")
    talk.probe.wait_for_end("q1")
    talk.ask("q1", "two")
    error = talk.probe.wait_for_end("q1", count=2)
    assert (error["status"], error["code"]) == ("error", 409)
    assert model.prompts == ["one"]


def test_two_clients_may_use_the_same_id(mosquitto_5: Any, converse: Any, model: Any) -> None:
    talk = converse(mosquitto_5)
    for client in ("sensor", "other"):
        talk.probe.publish(
            f"edgewise/{talk.device}/req/{client}/generate",
            {"v": 1, "id": "q1", "prompt": client},
        )
    talk.probe.wait_for_end("q1", count=2)
    assert sorted(model.prompts) == ["other", "sensor"]


# Attacks and mistakes


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
    talk.ask("field", schema={"type": "object"})
    many = talk.probe.wait_for_end("many")
    assert (many["code"], "at most" in many["message"] or "up to 100" in many["message"]) == (
        400,
        True,
    )
    verb = talk.probe.wait_for_end("verb")
    assert verb["code"] == 501
    assert "generate, cancel" in verb["message"]
    assert talk.probe.wait_for_end("unreadable")["code"] == 413
    assert "'schema'" in talk.probe.wait_for_end("field")["message"]


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


# Presence and stop


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

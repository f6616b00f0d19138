"""The agent on real brokers, spoken to by a plain client: answers, refusals, cancels, deadlines."""

import hashlib
from typing import Any


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

"""The requester against agents on real brokers: text, errors, and clear words for each."""

import gc
from typing import Any

import pytest

from edgewise.device import answer_stream
from edgewise.device.errors import (
    AgentAbsentError,
    BrokerUnreachableError,
    DeviceBusyError,
    DeviceError,
    RequestFailedError,
)
from edgewise.device.requester import Requester
from edgewise.runtime.options import GenerationOptions


@pytest.fixture
def asking(broker: Any, converse: Any) -> Any:
    talk = converse(broker)
    with Requester(broker.url, client="reader", protocol=broker.protocol) as requester:
        yield talk, requester


def test_the_text_comes_in_parts_and_the_final_after_it(asking: Any, model: Any) -> None:
    talk, requester = asking
    options = GenerationOptions(max_tokens=9, temperature=0.5, seed=3, stop=("END",))
    stream = requester.stream(talk.device, "one two three", options)
    assert stream.final is None
    assert list(stream) == ["one ", "two ", "three "]
    assert stream.final.status == "ok"
    assert stream.final.usage.tokens_per_second == 21.5
    assert model.options == [options]
    with pytest.raises(RuntimeError, match="once only"):
        list(stream)


def test_a_whole_answer(asking: Any, model: Any) -> None:
    talk, requester = asking
    final = requester.request(talk.device, [{"role": "user", "content": "count 300"}])
    assert final.text == "".join(f"w{number} " for number in range(300))
    assert model.prompts == [[{"role": "user", "content": "count 300"}]]
    assert model.options[0].max_tokens == 256  # the agent's own default


def test_many_requests_at_once_each_get_their_own_answer(mosquitto_5: Any, converse: Any) -> None:
    talk = converse(mosquitto_5, queue_size=50)
    with Requester(mosquitto_5.url, client="reader") as requester:
        streams = [requester.stream(talk.device, f"question {n}") for n in range(20)]
        running = [iter(stream) for stream in streams]
        first = [next(one) for one in running]
        rest = ["".join(one) for one in running]
    assert [a + b for a, b in zip(first, rest, strict=True)] == [
        f"question {n} " for n in range(20)
    ]


def test_an_unknown_agent_is_said_at_once_with_those_that_are_there(asking: Any) -> None:
    talk, requester = asking
    with pytest.raises(AgentAbsentError, match=rf"'nobody' has never.*{talk.device}"):
        requester.stream("nobody", "hello")


def test_an_agent_that_has_left_is_said(asking: Any, eventually: Any) -> None:
    talk, requester = asking
    requester.request(talk.device, "x")
    talk.agent.stop()
    eventually(lambda: requester.devices(0)[talk.device].state == "offline")
    with pytest.raises(AgentAbsentError, match="is offline"):
        requester.stream(talk.device, "hello")


def test_nobody_at_all_is_known_in_5_without_reading_any_status(new_mosquitto: Any) -> None:
    broker = new_mosquitto()
    with (
        Requester(f"mqtt://127.0.0.1:{broker.port}", client="reader") as requester,
        pytest.raises(AgentAbsentError, match="No agent named nobody listens"),
    ):
        list(requester.stream("nobody", "hello"))


def test_silence_is_an_error(
    new_mosquitto: Any, new_probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody subscribes, and never answers."""
    from types import SimpleNamespace

    monkeypatch.setattr(answer_stream, "FIRST_REPLY_SECONDS", 0.2)
    monkeypatch.setattr(answer_stream, "POLL_SECONDS", 0.05)
    broker = new_mosquitto()
    probe = new_probe(SimpleNamespace(port=broker.port, protocol="5"))
    probe.subscribe("edgewise/mute/req/#")
    with Requester(f"mqtt://127.0.0.1:{broker.port}", client="reader") as requester:
        with pytest.raises(AgentAbsentError, match=r"mute has not answered in 0\.4 seconds"):
            list(requester.stream("mute", "hello"))
        probe.wait_for(lambda message: message.topic.endswith("/cancel"))
        generates = [m.payload for m in probe.messages if m.topic.endswith("/generate")]
        assert len(generates) == 2  # asked again, once, with the same words
        assert len(set(generates)) == 1


def test_busy_is_an_error_that_says_when_to_come_back(
    mosquitto_5: Any, converse: Any, model: Any
) -> None:
    talk = converse(mosquitto_5, queue_size=1)
    with Requester(mosquitto_5.url, client="reader") as requester:
        talk.ask("runs", "hang")
        assert model.running.wait(10)
        talk.ask("waits", "x")
        talk.probe.wait_for(lambda message: message.topic.endswith("/waits"))
        with pytest.raises(DeviceBusyError, match="is busy") as caught:
            requester.request(talk.device, "hello")
        assert caught.value.code == 429
        assert caught.value.queue_depth == 1
        assert caught.value.retry_after_ms >= 250
        model.release.set()


def test_a_refusal_and_a_failure_are_errors(asking: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "edgewise.device.worker")
    talk, requester = asking
    with pytest.raises(RequestFailedError, match="the context 2048: shorten it") as refused:
        requester.request(talk.device, "refuse this")
    assert refused.value.code == 400
    with pytest.raises(RequestFailedError, match="its log says why") as failed:
        requester.request(talk.device, "crash now")
    assert (failed.value.code, failed.value.partial_text) == (500, "crash ")


def test_a_deadline_is_an_error_with_what_there_was(asking: Any) -> None:
    talk, requester = asking
    with pytest.raises(RequestFailedError, match="timeout") as caught:
        requester.request(talk.device, "hang on", deadline_seconds=0.3)
    assert caught.value.partial_text == "hang "
    assert caught.value.code is None


def test_cancelling_ends_the_iteration_with_what_there_was(
    asking: Any, model: Any, eventually: Any
) -> None:
    talk, requester = asking
    stream = requester.stream(talk.device, "endless")
    text = ""
    for part in stream:
        if not text:
            stream.cancel()
        text += part
    assert stream.final.status == "cancelled"
    assert text == stream.final.text
    eventually(lambda: model.closed == 1)


def test_leaving_the_loop_cancels(asking: Any, model: Any, eventually: Any) -> None:
    talk, requester = asking
    for _ in requester.stream(talk.device, "endless"):
        break
    gc.collect()
    eventually(lambda: model.closed == 1)
    assert requester._streams == {}
    assert requester.request(talk.device, "next").text == "next "


def test_a_request_that_is_never_iterated_is_never_sent(asking: Any, model: Any) -> None:
    talk, requester = asking
    requester.stream(talk.device, "never")
    assert requester._streams == {}
    requester.request(talk.device, "one")
    assert model.prompts == ["one"]


def test_a_request_may_wait_for_an_agent_that_is_away(
    mosquitto_5: Any, model: Any, new_device: Any, eventually: Any
) -> None:
    import threading

    from edgewise.device.agent import Agent

    device = new_device()
    with Agent(model, broker=mosquitto_5.url, device=device):
        pass  # its session stays on the broker
    with Requester(mosquitto_5.url, client="reader") as requester:
        eventually(lambda: device in requester.devices(0))
        assert requester.devices(0)[device].state == "offline"
        stream = requester.stream(device, "worth it", even_if_offline=True)
        parts: list[str] = []
        thread = threading.Thread(target=lambda: parts.extend(stream))
        thread.start()
        with Agent(model, broker=mosquitto_5.url, device=device):
            thread.join(10)
    assert "".join(parts) == "worth it "


def test_devices_are_listed(asking: Any, eventually: Any) -> None:
    talk, requester = asking
    eventually(lambda: talk.device in requester.devices(0))
    assert requester.devices()[talk.device].session == talk.agent.session


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"prompt": "x", "priority": 10}, "priority"),
        ({"prompt": "x", "request_id": "a/b"}, "id"),
        ({"prompt": "x" * 200_000}, "bytes"),
        ({"prompt": "\ud800"}, "surrogate"),
        ({"prompt": []}, "exactly one|list"),
        ({"prompt": [{"role": "robot", "content": "x"}]}, "system, user, assistant"),
        ({"prompt": [{"content": "x"}]}, "'role'"),
        ({"prompt": "x", "deadline_seconds": 1e9}, "deadline_ms"),
        ({"prompt": "x", "device": "a/b"}, "device name"),
    ],
)
def test_a_request_that_breaks_a_rule_never_leaves(
    mosquitto_5: Any, arguments: dict[str, Any], reason: str
) -> None:
    requester = Requester(mosquitto_5.url, client="reader")
    with pytest.raises(DeviceError, match=reason):
        requester.stream(**{"device": "pi", "even_if_offline": True, **arguments})


def test_no_broker_is_said_at_once() -> None:
    with (
        pytest.raises(BrokerUnreachableError, match="nothing listens"),
        Requester("mqtt://127.0.0.1:1", client="reader"),
    ):
        pass


def test_what_a_stranger_publishes_on_a_reply_topic_is_survived(
    asking: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR", "edgewise.device.requester")
    talk, requester = asking
    stream = requester.stream(talk.device, "count 5", request_id="mine")
    parts = iter(stream)
    text = next(parts)
    for payload in (b"rubbish", b'{"v":1,"id":"other","seq":0,"text":"x","fin":false}'):
        talk.probe.publish(f"edgewise/{talk.device}/rsp/reader/mine", payload)
    assert text + "".join(parts) == "w0 w1 w2 w3 w4 "

"""The agent with the runtime's own model class, over a fake engine: the parts fit each other."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgewise.device.agent import Agent
from edgewise.device.errors import RequestFailedError
from edgewise.device.requester import Requester
from edgewise.device.told_tokens import TokenChance
from edgewise.runtime.backends.fake_bundle import write_fake_bundle
from edgewise.runtime.loading import load
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.output_format import OutputFormat

REPLY = "Paris ist schön 👩‍👩‍👧, 猫!"


@pytest.fixture
def asked(broker: Any, new_device: Any, tmp_path: Path) -> Iterator[tuple[str, Requester]]:
    device = new_device()
    bundle = write_fake_bundle(tmp_path / "bundle", reply=REPLY, step_seconds=0.001)
    with (
        load(bundle) as model,
        Agent(model, broker=broker.url, device=device, protocol=broker.protocol),
        Requester(broker.url, client="reader", protocol=broker.protocol) as requester,
    ):
        yield device, requester


def test_an_answer_of_the_runtime_arrives_whole(asked: Any) -> None:
    device, requester = asked
    stream = requester.stream(device, "Wohin?")
    assert "".join(stream) == REPLY
    assert stream.final.finish_reason == "stop"
    usage = stream.final.usage
    assert usage.generated_tokens == len(REPLY.encode()) + 1  # a token a byte, and the end
    assert usage.prompt_tokens > len("Wohin?")
    assert usage.time_to_first_token_ms > 0
    assert usage.tokens_per_second > 0


def test_max_tokens_and_stop_reach_the_runtime(asked: Any) -> None:
    device, requester = asked
    short = requester.request(device, "Wohin?", GenerationOptions(max_tokens=5))
    assert (short.text, short.finish_reason) == ("Paris", "length")
    stopped = requester.request(device, "Wohin?", GenerationOptions(stop=(" ist",)))
    assert (stopped.text, stopped.finish_reason) == ("Paris", "stop")


def test_a_prompt_that_is_too_long_is_the_requesters_to_mend(asked: Any) -> None:
    device, requester = asked
    with pytest.raises(RequestFailedError, match="256") as caught:
        requester.request(device, "x" * 300)
    assert caught.value.code == 400
    assert requester.request(device, "Wohin?").text == REPLY


def test_leaving_one_answer_makes_room_for_the_next(asked: Any) -> None:
    device, requester = asked
    options = GenerationOptions(max_tokens=200, raw=True)
    for _ in requester.stream(device, "endless", options):
        break
    assert requester.request(device, "Wohin?").text == REPLY


def test_the_info_describes_the_bundle(asked: Any, broker: Any, new_probe: Any) -> None:
    device, _ = asked
    probe = new_probe(broker)
    topic = f"edgewise/{device}/info"
    probe.subscribe(topic)
    (message, *_) = probe.wait_for(lambda one: one.topic == topic)
    model = json.loads(message.payload)["model"]
    assert model["model_id"] == "fake"
    assert model["context_length"] == 256
    assert model["recipe"] == "fp32"


def test_a_format_reaches_the_runtime(asked: Any) -> None:
    device, requester = asked
    formats = {
        OutputFormat.choice(["Rhein", "Nil"]): ("Rhein", "Nil"),
        OutputFormat.regex("a{3}"): ("aaa",),
        OutputFormat.lark('start: "1" "+" "2"'): ("1+2",),
        OutputFormat.json_schema({"const": {"degrees": 9}}): ('{"degrees":9}',),
    }
    for output_format, accepted in formats.items():
        options = GenerationOptions(output_format=output_format)
        assert requester.request(device, "Wohin?", options).text in accepted


def test_how_sure_the_model_is_comes_with_the_final(asked: Any) -> None:
    device, requester = asked
    final = requester.request(device, "Wohin?", GenerationOptions(max_tokens=5, logprobs=2))
    assert "".join(one.text for one in final.logprobs) == final.text == "Paris"
    for one in final.logprobs:
        assert one.likeliest[0] == TokenChance(one.token_id, one.text, one.logprob)
        assert one.likeliest[1].logprob < one.logprob <= 0.0
    choices = GenerationOptions(output_format=OutputFormat.choice(["Rhein"]), logprobs=0)
    final = requester.request(device, "Wohin?", choices)
    assert "".join(one.text for one in final.logprobs) == "Rhein"
    assert requester.request(device, "Wohin?").logprobs == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            GenerationOptions(output_format=OutputFormat.json_schema({"type": "objekt"})),
            "the json format can not be used: .*objekt",
        ),
        (
            GenerationOptions(output_format=OutputFormat.regex("(a")),
            "the regex format can not be used: ",
        ),
        (GenerationOptions(logit_bias={260: 1.0}), "logit_bias has the token 260; .* 0 to 259"),
    ],
)
def test_what_the_model_can_not_do_fails_alone(
    asked: Any, options: GenerationOptions, message: str
) -> None:
    device, requester = asked
    good = requester.stream(device, "Wohin?")
    with pytest.raises(RequestFailedError, match=message) as caught:
        requester.request(device, "Wohin?", options)
    assert caught.value.code == 400
    assert "\n" not in str(caught.value)
    assert "".join(good) == REPLY
    assert requester.request(device, "Wohin?").text == REPLY


def test_a_crowd_gets_what_each_would_get_alone(
    broker: Any, new_device: Any, tmp_path: Path
) -> None:
    device = new_device()
    bundle = write_fake_bundle(tmp_path / "bundle", reply="", context_length=200)
    template = "Here is what the sensor in the cellar has measured today: "
    prompts = [f"{template}{number}" for number in range(8)]
    options = GenerationOptions(max_tokens=24, temperature=1.0, seed=5, raw=True)
    with load(bundle) as model:
        expected = [model.generate(prompt, options).text for prompt in prompts]
    with (
        load(bundle, slots=4) as model,
        Agent(model, broker=broker.url, device=device, protocol=broker.protocol),
        Requester(broker.url, client="reader", protocol=broker.protocol) as requester,
        ThreadPoolExecutor(8) as crowd,
    ):
        finals = list(crowd.map(lambda prompt: requester.request(device, prompt, options), prompts))
        again = requester.request(device, prompts[0], options)
    assert [final.text for final in finals] == expected
    assert again.text == expected[0]
    assert again.usage.prompt_tokens == len(prompts[0])
    assert again.usage.reused_tokens >= len(template)


def test_a_cancel_frees_what_waits_for_memory_inside_the_model(
    broker: Any, converse: Any, tmp_path: Path, eventually: Any
) -> None:
    bundle = write_fake_bundle(
        tmp_path / "b", reply="x" * 4000, context_length=4096, step_seconds=0.005
    )
    with load(bundle, slots=2) as model:
        one_context = model._backend.slot_bytes(4096)
    with load(bundle, slots=2, cache_bytes=one_context) as model:
        talk = converse(broker, answering=model)
        talk.ask("long", "Go on", max_tokens=3000)
        eventually(lambda: model._session.scheduler.working == 1)
        talk.ask("waits", "Go on", max_tokens=3000)
        eventually(lambda: model._session.scheduler.waiting == 1)
        talk.cancel("waits")
        assert talk.probe.wait_for_end("waits")["status"] == "cancelled"
        eventually(lambda: model._session.scheduler.waiting == 0)
        eventually(lambda: len(talk.agent._workers.jobs) == 1)
        assert talk.probe.ends("long") == []
        talk.ask("short", "Go on", max_tokens=4)
        assert talk.probe.wait_for_end("short")["text"] == "xxxx"
        assert talk.probe.ends("long") == []
        talk.ask("late", "Go on", max_tokens=3000, deadline_ms=100)
        assert talk.probe.wait_for_end("late")["status"] == "timeout"
        eventually(lambda: len(talk.agent._workers.jobs) == 1)
        talk.cancel("long")
        assert talk.probe.wait_for_end("long")["status"] == "cancelled"
        eventually(lambda: model._session.scheduler.working == 0)

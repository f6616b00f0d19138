"""What must not hurt others: poisoned requests, an engine's errors, too little memory."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from edgewise.device.memory_guard import READ_SECONDS
from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.backends.fake_bundle import END, write_fake_bundle
from edgewise.runtime.loading import load
from edgewise.runtime.options import GenerationOptions

MIB = 1024 * 1024
STEP_SECONDS = 0.003
NEVER_ENDING: dict[str, Any] = {"temperature": 0.0, "logit_bias": {END: -100.0}}


class GuidedBackend(FakeBackend):
    """An engine that stands still, or fails in its next call for several rows, when told to."""

    goes_on: ClassVar[threading.Event]
    breaks: ClassVar[threading.Event]

    def step(
        self,
        first_slot: int,
        token_ids: NDArray[np.int64],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        assert self.goes_on.wait(30)
        if self.breaks.is_set() and len(token_ids) > 1:
            self.breaks.clear()
            raise RuntimeError("the graph in /home/someone/model.onnx gave up")
        return super().step(first_slot, token_ids, past_lengths, counts)


@pytest.fixture
def engine() -> Iterator[type[GuidedBackend]]:
    GuidedBackend.goes_on, GuidedBackend.breaks = threading.Event(), threading.Event()
    GuidedBackend.goes_on.set()
    yield GuidedBackend
    GuidedBackend.goes_on.set()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_fake_bundle(
        tmp_path / "bundle", reply="", context_length=400, step_seconds=STEP_SECONDS
    )


@pytest.fixture
def alone(bundle: Path) -> Callable[[str, int], str]:
    """What a model says that has nobody else to answer."""

    def answer(prompt: str, max_tokens: int) -> str:
        with load(bundle) as model:
            options = GenerationOptions(max_tokens=max_tokens, raw=True, **NEVER_ENDING)
            return model.generate(prompt, options).text

    return answer


@pytest.fixture
def talk(shared_amqtt: Any, converse: Any, bundle: Path) -> Iterator[Callable[..., Any]]:
    """Start an agent with the runtime's own model on the embedded broker."""
    broker = SimpleNamespace(url=shared_amqtt.url, port=shared_amqtt.port, protocol="3.1.1")
    with ExitStack() as stack:

        def start(
            slots: int = 3, *, backend: Any = None, cache_bytes: int | None = None, **more: Any
        ) -> Any:
            model = stack.enter_context(
                load(bundle, slots=slots, backend=backend, cache_bytes=cache_bytes)
            )
            conversation = converse(broker, answering=model, **more)
            stack.callback(conversation.agent.stop)
            return conversation

        yield start


def ask(talk: Any, name: str, max_tokens: int) -> None:
    """Ask for exactly so many tokens; the id is the prompt."""
    bias = {str(END): -100}
    talk.ask(name, name, max_tokens=max_tokens, raw=True, temperature=0, logit_bias=bias)


def first_chunk(talk: Any, name: str) -> None:
    talk.probe.wait_for(lambda m: m.topic.endswith(f"/{name}") and b'"seq":0' in m.payload)


POISON: dict[str, dict[str, Any]] = {
    "huge-prompt": {"prompt": "x" * 100_000},
    "just-too-long": {"prompt": "x" * 400},
    "empty-prompt": {"prompt": "", "raw": True},
    "nothing-asked": {},
    "negative-temperature": {"prompt": "x", "temperature": -1},
    "temperature-in-words": {"prompt": "x", "temperature": "hot"},
    "tokens-in-words": {"prompt": "x", "max_tokens": "many"},
    "half-a-token": {"prompt": "x", "max_tokens": 1.5},
    "prompt-of-numbers": {"prompt": [1, 2, 3]},
    "messages-of-numbers": {"messages": [1]},
    "nobody-speaks": {"messages": [{"role": "nobody", "content": "x"}]},
    "schema-of-no-type": {"prompt": "x", "schema": {"type": "nothing"}},
    "schema-in-words": {"prompt": "x", "schema": "an object, please"},
    "schema-to-nowhere": {"prompt": "x", "schema": {"$ref": "#/nowhere"}},
    "half-an-expression": {"prompt": "x", "regex": "(((("},
    "no-grammar": {"prompt": "x", "grammar": "start: nothing"},
    "many-beams": {"prompt": "x", "beams": 4},
}
UNREADABLE = (
    b'{"v":1,"id":"nan","prompt":"x","temperature":NaN}',
    b'{"v":1,"id":"infinite","prompt":"x","temperature":1e999}',
    b'{"v":1,"id":"cut off","prompt":"x',
)


def test_poisoned_requests_fail_alone(talk: Any, alone: Any, engine: Any) -> None:
    conversation = talk(backend=engine.open, queue_size=30)
    for name in ("first", "second"):
        ask(conversation, name, 250)
        first_chunk(conversation, name)
    engine.goes_on.clear()
    for name, fields in POISON.items():
        conversation.put("generate", name, **fields)
    for payload in UNREADABLE:
        conversation.probe.publish(f"edgewise/{conversation.device}/req/sensor/generate", payload)
    ends = {name: conversation.probe.wait_for_end(name) for name in POISON}
    assert {name: end.get("code") for name, end in ends.items()} == dict.fromkeys(POISON, 400)
    conversation.probe.wait_for_end("unreadable", count=len(UNREADABLE))
    assert conversation.probe.ends("first") == conversation.probe.ends("second") == []
    # Only the first choice of a token finds this one out, for which the engine must go on.
    conversation.ask("no-such-token", logit_bias={"99999": 5})
    engine.goes_on.set()
    assert conversation.probe.wait_for_end("no-such-token")["code"] == 400
    for name in ("first", "second"):
        final = conversation.probe.wait_for_end(name)
        assert (final["status"], final["text"]) == ("ok", alone(name, 250))
    conversation.agent.check()


def test_an_error_of_the_engine_ends_the_requests_of_its_call_alone(
    talk: Any, alone: Any, engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "edgewise.device.worker")
    conversation = talk(2, backend=engine.open)
    for name in ("one", "two"):
        ask(conversation, name, 350)
        first_chunk(conversation, name)
    engine.goes_on.clear()
    ask(conversation, "waits", 40)
    conversation.probe.wait_for(lambda message: message.topic.endswith("/waits"))
    engine.breaks.set()
    engine.goes_on.set()
    for name in ("one", "two"):
        error = conversation.probe.wait_for_end(name)
        assert (error["status"], error["code"]) == ("error", 500)
        assert "model.onnx" not in json.dumps(error)
    ask(conversation, "after", 40)
    for name in ("waits", "after"):
        final = conversation.probe.wait_for_end(name)
        assert (final["status"], final["text"]) == ("ok", alone(name, 40))
    conversation.agent.check()


def test_short_memory_refuses_before_anything_is_begun(shared_amqtt: Any, converse: Any) -> None:
    left = [20 * MIB]
    broker = SimpleNamespace(url=shared_amqtt.url, port=shared_amqtt.port, protocol="3.1.1")
    conversation = converse(
        broker, memory_left=lambda: left[0], memory_reserve_bytes=64 * MIB, queue_size=1
    )
    conversation.ask("early", "too early")
    refused = conversation.probe.wait_for_end("early")
    assert (refused["status"], refused["code"]) == ("error", 507)
    assert "20 MiB of memory left" in refused["message"]
    assert "64 MiB" in refused["message"]
    assert len(conversation.probe.replies("early")) == 1  # it was not accepted before
    left[0] = 65 * MIB
    time.sleep(READ_SECONDS)
    conversation.ask("early", "not too early")  # the same id: nothing had been started
    final = conversation.probe.wait_for_end("early", count=2)
    assert (final["status"], final["text"]) == ("ok", "not too early ")


def test_what_does_not_fit_into_the_cache_waits_or_is_refused(talk: Any, alone: Any) -> None:
    conversation = talk(3, cache_bytes=150)  # of the fake engine: a byte a token
    conversation.ask("never", "x" * 200, raw=True)
    refused = conversation.probe.wait_for_end("never")
    assert refused["code"] == 400
    assert "200 tokens" in refused["message"]
    assert "150" in refused["message"]
    names = ("one", "two", "three", "four")
    for name in names:
        ask(conversation, name, 80)  # two of them do not fit together
    for name in names:
        final = conversation.probe.wait_for_end(name)
        assert (final["status"], final["text"]) == ("ok", alone(name, 80))


def test_a_request_that_waits_for_memory_ends_at_its_deadline(talk: Any, engine: Any) -> None:
    conversation = talk(2, backend=engine.open, cache_bytes=390)
    ask(conversation, "large", 380)
    first_chunk(conversation, "large")
    engine.goes_on.clear()
    conversation.ask("small", "y" * 30, raw=True, max_tokens=10, deadline_ms=300)
    final = conversation.probe.wait_for_end("small")
    assert (final["status"], final["text"]) == ("timeout", "")
    assert conversation.probe.ends("large") == []
    engine.goes_on.set()
    assert conversation.probe.wait_for_end("large")["status"] == "ok"
    ask(conversation, "next", 10)
    assert conversation.probe.wait_for_end("next")["status"] == "ok"

"""Many clients at once, some of which go away, ask badly, or too much."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgewise.runtime import GenerationOptions, load
from edgewise.runtime.backends.fake_bundle import write_fake_bundle


def health(ask):
    return ask("/health").json


def test_eight_clients_get_what_one_alone_would(serve, tmp_path):
    folder = write_fake_bundle(tmp_path / "b", reply="", context_length=200)
    prompts = [f"question {number}" for number in range(8)]
    sampled = {"temperature": 1, "max_tokens": 24, "seed": 5}
    with load(folder) as alone:
        expected = [alone.generate(prompt, GenerationOptions(**sampled)) for prompt in prompts]
    with load(folder, slots=4) as model, ThreadPoolExecutor(8) as clients:
        ask = serve(model, slots=4)
        whole = list(clients.map(lambda prompt: ask.chat(prompt, **sampled), prompts))
        streamed = list(
            clients.map(lambda prompt: ask.chat(prompt, **sampled, stream=True), prompts)
        )
        ask.server.stop()
    texts = [answer.json["choices"][0]["message"]["content"] for answer in whole]
    assert texts == [one.text for one in expected]
    for answer, one in zip(streamed, expected, strict=True):
        deltas = [event["choices"][0]["delta"] for event in answer.events[:-1]]
        assert "".join(delta.get("content", "") for delta in deltas) == one.text


def test_bad_requests_fail_alone_while_others_go_on(serve, scripted, eventually):
    ask = serve(scripted, slots=2)
    hanging = ask.begin("hang b", stream=True)
    eventually(lambda: "hang b" in scripted.begun)
    assert ask("/v1/chat/completions", b'{"model": "fake", "temperature": NaN}').status == 400
    assert ask.chat(temperature=1e9).status == 400
    assert ask.chat("refuse").status == 400
    assert ask.chat("fall").status == 500
    assert ask.chat("fine").status == 200
    scripted.release.set()
    response = hanging.getresponse()
    assert response.read().endswith(b"data: [DONE]\n\n")
    hanging.close()


def test_what_finds_no_room_is_told_when_to_come_again(serve, scripted, eventually):
    ask = serve(scripted, slots=1, queue_size=2)
    open_ones = []
    for number, text in enumerate(["hang x", "waits 1", "waits 2"]):
        open_ones.append(ask.begin(text))
        eventually(lambda number=number: health(ask)["waiting"] == number)
    answer = ask.chat("too late")
    assert answer.status == 429
    assert answer.error["type"] == "rate_limit_error"
    assert int(answer.headers["retry-after"]) >= 1
    assert scripted.begun == ["hang x"]
    scripted.release.set()
    for connection in open_ones:
        assert connection.getresponse().status == 200
        connection.close()
    assert scripted.begun == ["hang x", "waits 1", "waits 2"]
    assert ask.chat("now").status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_cancels_what_runs(serve, scripted, eventually, stream):
    ask = serve(scripted)
    connection = ask.begin("endless", stream=stream)
    eventually(lambda: scripted.running == 1)
    if stream:
        assert connection.getresponse().read(6) == b"data: "
    connection.close()
    eventually(lambda: scripted.closed == ["endless"])
    eventually(lambda: health(ask)["running"] == 0)
    assert ask.chat("next").status == 200


def test_a_client_that_hangs_up_in_the_line_never_has_a_turn(serve, scripted, eventually):
    ask = serve(scripted)
    hanging = ask.begin("hang x")
    eventually(lambda: scripted.begun == ["hang x"])
    waiting = ask.begin("never", n=2, stream=True)
    eventually(lambda: health(ask)["waiting"] == 2)
    waiting.close()
    eventually(lambda: health(ask)["waiting"] == 0)
    scripted.release.set()
    assert hanging.getresponse().status == 200
    hanging.close()
    assert ask.chat("next").status == 200
    assert scripted.begun == ["hang x", "next"]


@pytest.mark.parametrize("text", ["panic", "choke"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_panic_fails_one_request_and_not_the_server(serve, scripted, text, stream):
    ask = serve(scripted)
    answer = ask.chat(text, stream=stream)
    assert answer.status == 500
    assert answer.error["type"] == "server_error"
    assert ask.chat("next").status == 200


def test_without_memory_requests_are_refused_before_they_begin(serve, scripted):
    ask = serve(scripted, memory_left=lambda: 5 << 20)
    answer = ask.chat("x")
    assert answer.status == 503
    assert answer.error["code"] == "out_of_memory"
    assert "5 MiB of memory left and keeps 32 MiB" in answer.error["message"]
    assert int(answer.headers["retry-after"]) >= 1
    assert scripted.seen == []
    assert ask("/v1/models").status == 200
    assert serve(scripted, memory_left=lambda: 5 << 20, memory_reserve_bytes=0).chat().status == 200
    assert serve(scripted, memory_left=lambda: None).chat().status == 200
    assert serve(scripted).chat("starve").error["code"] == "out_of_memory"


def test_a_stream_and_its_neighbour_both_move(serve, scripted, eventually):
    ask = serve(scripted, slots=2)
    endless = ask.begin("endless", stream=True)
    eventually(lambda: scripted.running == 1)
    assert ask.chat("a b c").json["choices"][0]["message"]["content"] == "a b c "
    assert endless.getresponse().read(6) == b"data: "
    endless.close()
    eventually(lambda: scripted.running == 0)


def test_a_server_that_stops_tells_those_that_it_can_not_wait_for(serve, scripted, eventually):
    ask = serve(scripted, drain_seconds=0.05)
    stream, whole = (ask.begin("endless", stream=stream) for stream in (True, False))
    eventually(lambda: health(ask) == {"status": "ok", "running": 1, "waiting": 1})
    ask.server.stop()
    assert b'"code":"stopping"' in stream.getresponse().read()
    response = whole.getresponse()
    assert response.status == 503
    assert json.loads(response.read())["error"]["code"] == "stopping"
    assert scripted.closed == ["endless"]
    for connection in (stream, whole):
        connection.close()
    ask.server.stop()  # again


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_what_waits_for_memory(serve, tmp_path, eventually, stream):
    folder = write_fake_bundle(
        tmp_path / "b", reply="x" * 4000, context_length=4096, step_seconds=0.005
    )
    with load(folder, slots=2) as model:
        one_context = model._backend.slot_bytes(4096)
    with load(folder, slots=2, cache_bytes=one_context) as model:
        ask = serve(model, slots=2)
        first = ask.begin("Go on", max_tokens=3000)
        eventually(lambda: model._session.scheduler.working == 1)
        second = ask.begin("Go on", max_tokens=3000, stream=stream)
        eventually(lambda: model._session.scheduler.waiting == 1)
        second.close()
        eventually(lambda: health(ask) == {"status": "ok", "running": 1, "waiting": 0})
        assert model._session.scheduler.waiting == 0
        assert model._session.scheduler.working == 1
        answer = ask.chat("Go on", max_tokens=4)
        assert answer.json["choices"][0]["message"]["content"] == "xxxx"
        first.close()
        eventually(lambda: health(ask)["running"] == 0)
        assert model._session.scheduler.working == 0
        ask.server.stop()


def test_the_client_reaches_the_model(serve, scripted):
    ask = serve(scripted)
    ask.chat("one")
    ask.chat("two", n=2, temperature=1)
    assert len({standing.client for standing in scripted.standings}) == 1
    assert [id(one.cancellation) for one in scripted.standings[1:]] == [
        id(scripted.standings[1].cancellation)
    ] * 2

"""Conversations over HTTP: the form of answers, whole and streamed, and what is refused."""

from __future__ import annotations

import json
import re
import time

import pytest

REPLY = "The capital of France is Paris 🙂."
TOKENS = len(REPLY.encode()) + 1  # a token a byte, and the end


def test_an_answer_has_the_form_of_openais(ask):
    answer = ask.chat("Hi")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    value = answer.json
    assert value.pop("id").startswith("chatcmpl-")
    assert abs(value.pop("created") - time.time()) < 60
    assert value.pop("system_fingerprint").startswith("fp_")
    assert value == {
        "object": "chat.completion",
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": REPLY, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": TOKENS,
            "total_tokens": 5 + TOKENS,
            "prompt_tokens_details": value["usage"]["prompt_tokens_details"],
        },
    }


def test_a_stream_is_the_answer_in_pieces(ask):
    answer = ask.chat("Hi", stream=True)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done = answer.events
    assert done == "[DONE]"
    assert len({event["id"] for event in events}) == 1
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert all("usage" not in event for event in events)
    (first, *pieces, last) = [event["choices"][0] for event in events]
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert "".join(piece["delta"]["content"] for piece in pieces) == REPLY
    assert all(piece["finish_reason"] is None for piece in (first, *pieces))
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    assert len(pieces) == len(REPLY)  # never half a character


def test_a_stream_ends_with_the_figures_if_asked(ask):
    answer = ask.chat("Hi", stream=True, stream_options={"include_usage": True})
    *events, last, done = answer.events
    assert done == "[DONE]"
    assert all(event["usage"] is None for event in events)
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 5
    assert last["usage"]["completion_tokens"] == TOKENS


def test_options_reach_the_model(ask):
    def choice(**fields):
        return ask.chat("Hi", **fields).json["choices"][0]

    assert choice(max_tokens=3) | {"message": None} == {
        "index": 0,
        "message": None,
        "logprobs": None,
        "finish_reason": "length",
    }
    assert choice(max_tokens=3)["message"]["content"] == "The"
    assert choice(max_completion_tokens=2, max_tokens=9)["message"]["content"] == "Th"
    assert choice(stop=" France")["message"]["content"] == "The capital of"
    assert choice(stop=["is", " of"])["message"]["content"] == "The capital"
    assert choice(stop=[])["message"]["content"] == REPLY


def test_fields_become_options(serve, scripted):
    ask = serve(scripted)
    fields = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2,
        "seed": -1, "max_tokens": 1_000_000, "user": "me", "store": False, "metadata": {"a": "b"},
        "tools": [], "n": 1, "stop": None, "frequency_penalty": 0.25, "presence_penalty": -0.5,
        "logit_bias": {"7": -100, "8": 1.5}, "typical_p": 0.8, "dry_multiplier": 0.75,
        "dry_base": 1.5, "dry_allowed_length": 3, "dry_sequence_breakers": ["x"],
    }  # fmt: skip
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "name": "x"},
        {"role": "user", "content": "d"},
    ]
    assert ask.chat(messages=messages, **fields).status == 200
    ((prompt, options),) = scripted.seen
    assert prompt == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    assert (options.temperature, options.top_p, options.top_k) == (0.5, 0.9, 7)
    assert (options.min_p, options.repetition_penalty) == (0.1, 1.2)
    assert (options.frequency_penalty, options.presence_penalty) == (0.25, -0.5)
    assert options.logit_bias == {7: -100.0, 8: 1.5}
    assert (options.typical_p, options.dry_multiplier, options.dry_base) == (0.8, 0.75, 1.5)
    assert (options.dry_allowed_length, options.dry_breakers) == (3, ("x",))
    assert options.seed == 2**64 - 1
    assert options.max_tokens == 4096
    assert options.stop == ()
    assert options.raw is False


def test_several_answers_have_seeds_of_their_own(serve, scripted):
    ask = serve(scripted, slots=2)
    value = ask.chat("a b", n=3, seed=2**64 - 1).json
    assert [choice["index"] for choice in value["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in value["choices"]} == {"a b "}
    assert [options.seed for _, options in scripted.seen] == [2**64 - 1, 0, 1]
    assert value["usage"]["prompt_tokens"] == 7
    assert value["usage"]["completion_tokens"] == 3 * 2
    assert scripted.most <= 2


def test_a_stream_of_several_answers_says_which_is_which(serve, scripted):
    ask = serve(scripted, slots=2)
    *events, done = ask.chat("a b", n=3, stream=True).events
    assert done == "[DONE]"
    for index in range(3):
        mine = [
            choice for event in events for choice in event["choices"] if choice["index"] == index
        ]
        assert "".join(choice["delta"].get("content", "") for choice in mine) == "a b "
        assert mine[0]["delta"]["role"] == "assistant"
        assert mine[-1]["finish_reason"] == "stop"


def bad(**fields):
    return json.dumps(
        {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]} | fields
    ).encode()


def schema(value):
    return {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": value}}


POINT = {
    "type": "object",
    "properties": {
        "x": {"type": "integer", "minimum": 0, "maximum": 99},
        "ok": {"type": "boolean"},
    },
    "required": ["x", "ok"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_keeps_to_a_schema(ask, stream):
    answer = ask.chat("Hi", response_format=schema(POINT), stream=stream)
    if stream:
        deltas = [event["choices"][0]["delta"] for event in answer.events[:-1]]
        text = "".join(delta.get("content", "") for delta in deltas)
    else:
        text = answer.json["choices"][0]["message"]["content"]
    value = json.loads(text)
    assert set(value) == {"x", "ok"}
    assert type(value["ok"]) is bool
    assert 0 <= value["x"] <= 99


def test_an_answer_keeps_to_other_formats(ask):
    def content(**response_format):
        answer = ask.chat("Hi", response_format=response_format, max_tokens=200)
        return answer.json["choices"][0]["message"]["content"]

    assert content(type="text") == REPLY
    assert content(type="choice", choices=["yes", "no"]) in {"yes", "no"}
    assert re.fullmatch("[0-9]{3}", content(type="regex", regex="[0-9]{3}"))
    assert content(type="lark", grammar='start: "abc"') == "abc"
    assert content(type="json_object").startswith("{")


@pytest.mark.parametrize(
    ("body", "status", "expected", "param"),
    [
        (b"", 400, "not JSON", None),
        (b"[]", 400, "not an object", None),
        (b'{"model": "fake", "temperature": NaN}', 400, "NaN", None),
        (b'{"model": "fake", "model": "x"}', 400, "twice", None),
        (b'{"a":' * 100 + b"1" + b"}" * 100, 400, "deeper", None),
        (b"\xff", 400, "UTF-8", None),
        (bad(model=None), 400, "'model'", "model"),
        (bad(model="gpt-4"), 404, "accepted: fake", "model"),
        (bad(messages=None), 400, "'messages'", "messages"),
        (bad(messages=[]), 400, "1 to 256", "messages"),
        (bad(messages=[1]), 400, "messages[0]", "messages"),
        (bad(messages=[{"role": "tool", "content": "x"}]), 400, "'tool'", "messages"),
        (bad(messages=[{"role": "user", "content": 3}]), 400, "messages[0]", "messages"),
        (bad(messages=[{"role": "user"}]), 400, "messages[0]", "messages"),
        (bad(messages=[{"role": "user", "content": "x", "y": 1}]), 400, "'y'", "y"),
        (
            bad(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            400, "'image_url'", "messages",
        ),
        (bad(messages=[{"role": "user", "content": "x"}] * 257), 400, "256", "messages"),
        (bad(temperature=-1), 400, "0 to 100", "temperature"),
        (bad(temperature="warm"), 400, "'warm'", "temperature"),
        (bad(temperature=True), 400, "a number", "temperature"),
        (bad(top_p=0), 400, "above 0", None),
        (bad(n=0), 400, "1 to", "n"),
        (bad(n=1000), 400, "1 to", "n"),
        (bad(max_tokens=0), 400, "1 to", "max_tokens"),
        (bad(max_tokens=1.5), 400, "whole number", "max_tokens"),
        (bad(seed=1.5), 400, "whole number", "seed"),
        (bad(stop=3), 400, "'stop'", "stop"),
        (bad(stop=["x"] * 40), 400, "32", "stop"),
        (bad(stop=[""]), 400, "none of them empty", "stop"),
        (bad(logit_bias={"x": 1}), 400, "token ids", "logit_bias"),
        (bad(logit_bias={"1": 101}), 400, "-100 to 100", "logit_bias"),
        (bad(logit_bias={"1": "a"}), 400, "a number", "logit_bias"),
        (bad(logit_bias=[]), 400, "an object", "logit_bias"),
        (bad(logit_bias={"260": 1}), 400, "260", None),
        (bad(frequency_penalty=3), 400, "-2 to 2", "frequency_penalty"),
        (bad(typical_p=0), 400, "above 0", None),
        (bad(stream="yes"), 400, "true or false", "stream"),
        (bad(stream_options={"x": 1}), 400, "'x'", "x"),
        (bad(stream_options=1), 400, "an object", "stream_options"),
        (bad(response_format="json"), 400, "an object", "response_format"),
        (bad(response_format={"type": "xml"}), 400, "'xml'", "type"),
        (bad(response_format={"type": "json_schema"}), 400, "'json_schema'", "json_schema"),
        (bad(response_format=schema(None)), 400, "'schema'", "schema"),
        (bad(response_format=schema({"type": "nonsense"})), 400, "can not be used", None),
        (bad(response_format={"type": "regex", "regex": "("}), 400, "can not be used", None),
        (bad(response_format={"type": "choice"}), 400, "choices", None),
        (bad(response_format={"type": "text", "x": 1}), 400, "'x'", "x"),
        (bad(tools=[{"type": "function"}]), 400, "tools", "tools"),
        (bad(tool_choice="required"), 400, "tool_choice", "tool_choice"),
        (bad(modalities=["text", "audio"]), 400, "modalities", "modalities"),
        (bad(reply_in="verse"), 400, "'reply_in'", "reply_in"),
        (bad(messages=[{"role": "user", "content": "x" * 300}]), 400, "256", None),
    ],
)  # fmt: skip
def test_what_can_not_be_answered_is_told_and_nothing_else_happens(
    ask, body, status, expected, param
):
    answer = ask("/v1/chat/completions", body)
    assert answer.status == status, answer.content
    assert expected in answer.error["message"]
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param
    assert ask.chat("Hi").json["choices"][0]["message"]["content"] == REPLY


def test_a_stream_that_can_not_begin_has_its_status_too(ask):
    answer = ask.chat("x" * 300, stream=True)
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"


def test_a_refusal_of_the_model_is_the_clients_to_mend(serve, scripted):
    ask = serve(scripted)
    assert ask.chat("refuse").status == 400
    assert ask.chat("refuse").error["message"] == "The prompt is refused."


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_of_ours_shows_nothing_of_the_inside(serve, scripted, stream, caplog):
    ask = serve(scripted)
    answer = ask.chat("fall", stream=stream)
    assert answer.status == 500
    assert answer.error["type"] == "server_error"
    assert b"secret" not in answer.content
    assert "secret" in caplog.text
    assert ask.chat("a b").status == 200


def test_a_stream_that_fails_on_its_way_ends_with_the_error(serve, scripted):
    ask = serve(scripted)
    answer = ask.chat("crash", stream=True)
    assert answer.status == 200
    *_, piece, error = answer.events
    assert piece["choices"][0]["delta"] == {"content": "first "}
    assert error["error"]["type"] == "server_error"
    assert b"secret" not in answer.content
    assert ask.chat("crash").status == 500
    assert ask.chat("a b").status == 200

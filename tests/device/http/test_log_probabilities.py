"""Log-probabilities in both of OpenAI's forms, whole and streamed."""

from __future__ import annotations

import pytest

from edgewise.device.http.token_texts import IMPOSSIBLE, TokenTexts
from edgewise.runtime import GenerationOptions, load
from edgewise.runtime.backends.fake_bundle import write_fake_bundle
from edgewise.runtime.generation import TokenLogProbability

REPLY = "The capital of France is Paris 🙂."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_fake_bundle(tmp_path_factory.mktemp("logprobs") / "b")
    with load(folder) as loaded:
        yield loaded


def test_a_chat_has_one_entry_a_token_and_the_likeliest_beside_it(serve, model):
    ask = serve(model)
    answer = model.generate("Hi", GenerationOptions(logprobs=3))
    (choice,) = ask.chat("Hi", logprobs=True, top_logprobs=3).json["choices"]
    content = choice["logprobs"]["content"]
    assert choice["logprobs"]["refusal"] is None
    assert b"".join(bytes(entry["bytes"]) for entry in content) == REPLY.encode()
    *expected, end = answer.log_probabilities  # the end token is no part of the answer
    assert end.token_id in model.manifest.tokens.end
    for entry, one in zip(content, expected, strict=True):
        assert entry["logprob"] == pytest.approx(one.log_probability)
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["logprob"] == pytest.approx(one.likeliest[0][1])
        assert set(entry["top_logprobs"][0]) == {"token", "logprob", "bytes"}
    assert [content[0]["token"], content[0]["top_logprobs"][0]["token"]] == ["T", "T"]


def test_a_stream_has_the_same_entries(serve, model):
    ask = serve(model)
    (choice,) = ask.chat("Hi", logprobs=True).json["choices"]
    *events, _ = ask.chat("Hi", logprobs=True, stream=True).events
    found = [event["choices"][0]["logprobs"] for event in events]
    entries = [entry for part in found if part is not None for entry in part["content"]]
    assert entries == choice["logprobs"]["content"]
    assert all(entry["top_logprobs"] == [] for entry in entries)
    assert ask.chat("Hi").json["choices"][0]["logprobs"] is None


def test_a_continued_text_says_where_tokens_stand(serve, model):
    ask = serve(model)
    body = {"model": "fake", "prompt": "<|assistant|>", "max_tokens": 100}
    (choice,) = ask("/v1/completions", body | {"logprobs": 2}).json["choices"]
    found = choice["logprobs"]
    assert choice["text"] == REPLY
    place = REPLY.index("🙂")
    for index, (token, offset) in enumerate(
        zip(found["tokens"], found["text_offset"], strict=True)
    ):
        if index < place:
            assert (REPLY[offset], offset) == (token, index)
    assert found["text_offset"][-1] == len(REPLY) - 1
    assert len(found["token_logprobs"]) == len(REPLY.encode())
    assert all(len(likeliest) == 2 for likeliest in found["top_logprobs"][:place])
    assert found["top_logprobs"][0]["T"] == found["token_logprobs"][0]
    *events, _ = ask("/v1/completions", body | {"logprobs": 2, "stream": True}).events
    parts = [event["choices"][0]["logprobs"] for event in events]
    for name, values in found.items():
        assert [value for part in parts if part for value in part[name]] == values


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("/v1/chat/completions", {"top_logprobs": 2}, "needs 'logprobs'"),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 21}, "0 to 20"),
        ("/v1/chat/completions", {"logprobs": 2}, "true or false"),
        ("/v1/completions", {"logprobs": 21}, "0 to 20"),
        ("/v1/completions", {"logprobs": True}, "whole number"),
    ],
)
def test_what_can_not_be_told(ask, path, fields, expected):
    body = ask.body()
    if path == "/v1/completions":
        body = {"model": "fake", "prompt": "a"}
    answer = ask(path, body | fields)
    assert answer.status == 400
    assert expected in answer.error["message"]


def test_what_is_impossible_is_a_number_and_special_tokens_have_texts(model):
    end = model.manifest.tokens.end[0]
    texts = TokenTexts(model.tokenizer, [end])
    tokens = [
        TokenLogProbability(1, -float("inf"), ((end, -0.5),)),
        TokenLogProbability(end, -0.5, ()),
    ]
    (entry,) = texts.for_chat(tokens)["content"]
    assert (entry["token"], entry["logprob"]) == ("<|system|>", IMPOSSIBLE)
    assert entry["bytes"] == list(b"<|system|>")
    assert [other["token"] for other in entry["top_logprobs"]] == ["<|end|>"]

"""Texts that are continued, and vectors of texts."""

from __future__ import annotations

import base64
import struct

import pytest

from edgewise.runtime import GenerationOptions, load
from edgewise.runtime.backends.fake_bundle import (
    write_fake_bundle,
    write_fake_encoder_bundle,
    write_fake_sequence_bundle,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_fake_bundle(tmp_path_factory.mktemp("completions") / "b", reply="")


def test_a_text_is_continued_without_the_template(serve, folder):
    with load(folder) as model:
        ask = serve(model, slots=1)
        options = GenerationOptions(max_tokens=16, raw=True)
        expected = [model.generate(text, options) for text in ("one", "two")]
        answer = ask("/v1/completions", {"model": "fake", "prompt": ["one", "two"]}).json
        assert answer["object"] == "text_completion"
        assert answer["id"].startswith("cmpl-")
        assert answer["choices"] == [
            {"index": index, "text": one.text, "logprobs": None, "finish_reason": one.finish_reason}
            for index, one in enumerate(expected)
        ]
        assert answer["usage"]["prompt_tokens"] == 6
        tokens = sum(one.statistics.generated_tokens for one in expected)
        assert answer["usage"]["completion_tokens"] == tokens
        body = {"model": "fake", "prompt": "one", "stream": True}
        *events, done = ask("/v1/completions", body).events
        assert done == "[DONE]"
        assert "".join(event["choices"][0]["text"] for event in events) == expected[0].text
        assert events[-1]["choices"][0]["finish_reason"] == expected[0].finish_reason
        assert {event["object"] for event in events} == {"text_completion"}
        ask.server.stop()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": None}, "'prompt'"),
        ({"prompt": []}, "'prompt'"),
        ({"prompt": [1, 2]}, "token ids"),
        ({"prompt": [[1]]}, "token ids"),
        ({"prompt": ["a"] * 17}, "16"),
        ({"prompt": ["a"] * 9, "n": 2}, "16 answers in all"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"messages": []}, "'messages'"),
    ],
)
def test_what_can_not_be_continued(ask, fields, expected):
    answer = ask("/v1/completions", {"model": "fake", "prompt": "a"} | fields)
    assert answer.status == 400
    assert expected in answer.error["message"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings") / "b"
    with load(write_fake_encoder_bundle(folder, features=8, context_length=32)) as model:
        yield model


def test_vectors_are_those_of_the_model(serve, encoder):
    ask = serve(encoder)
    texts = [f"text {number}" for number in range(20)]
    expected = encoder.embed(texts)
    answer = ask("/v1/embeddings", {"model": "fake", "input": texts}).json
    assert answer["object"] == "list"
    assert answer["model"] == "fake"
    assert [item["index"] for item in answer["data"]] == list(range(20))
    for item, row in zip(answer["data"], expected, strict=True):
        assert item["object"] == "embedding"
        assert item["embedding"] == pytest.approx(row.tolist(), abs=1e-6)
    tokens = sum(len(text) + 2 for text in texts)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    body = {"model": "fake", "input": "text 0", "encoding_format": "base64", "dimensions": 8}
    (item,) = ask("/v1/embeddings", body).json["data"]
    row = struct.unpack("<8f", base64.b64decode(item["embedding"]))
    assert row == pytest.approx(expected[0].tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"input": None}, "'input'"),
        ({"input": []}, "'input'"),
        ({"input": ["a"] * 257}, "256"),
        ({"input": [1, 2]}, "token ids"),
        ({"input": "x" * 40}, "32"),
        ({"encoding_format": "int8"}, "float, base64"),
        ({"dimensions": 4}, "have 8"),
        ({"model": "other"}, "no model"),
    ],
)
def test_what_can_not_be_embedded(serve, encoder, fields, expected):
    answer = serve(encoder)("/v1/embeddings", {"model": "fake", "input": "a"} | fields)
    assert answer.status == (404 if "model" in fields else 400)
    assert expected in answer.error["message"]


def test_a_model_is_asked_only_for_what_it_was_made_for(serve, encoder, ask):
    answer = serve(encoder).chat("Hi")
    assert answer.status == 400
    assert "was not made for the task generate" in answer.error["message"]
    answer = ask("/v1/embeddings", {"model": "fake", "input": "a"})
    assert answer.status == 400
    assert "was not made for the task embed" in answer.error["message"]


def test_an_encoder_decoder_reads_its_prompt_as_it_is(serve, tmp_path):
    with load(write_fake_sequence_bundle(tmp_path / "b")) as model:
        ask = serve(model)
        body = {"model": "fake", "prompt": "Translate: Paris", "max_tokens": 60}
        reply = "Paris est la capitale de la France 🙂."
        assert ask("/v1/completions", body).json["choices"][0]["text"] == reply
        answer = ask.chat("Hi")
        assert answer.status == 400
        assert "template" in answer.error["message"]
        ask.server.stop()

"""``edgewise request --task``: texts judged by an agent with an encoder, over a broker."""

from __future__ import annotations

import json

import pytest

from edgewise.device import Agent, EmbeddedBroker
from edgewise.runtime import load
from edgewise.runtime.backends.fake_bundle import write_fake_encoder_bundle

LABELS = ("sad", "happy", "angry")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "moods"
    with load(
        write_fake_encoder_bundle(folder, tasks=("classify", "embed"), labels=LABELS)
    ) as model:
        yield model


@pytest.fixture(scope="module")
def ask(model):
    """Give the arguments of a request to an agent that runs in this process."""
    with (
        EmbeddedBroker() as broker,
        Agent(model, broker=broker.url, device="hall", protocol=broker.protocol),
    ):
        yield lambda *rest: (
            *("request", "--broker", broker.url, "--device", "hall"),
            *("--protocol", broker.protocol, *rest),
        )


def test_the_answer_is_that_of_run(edgewise, ask, model):
    there = edgewise(*ask("--task", "classify", "I am", "--top", "2"))
    here = edgewise("run", model.bundle.path, "I am", "--top", "2")
    assert there == here
    pair = ("one", "--text-pair", "other", "--task", "embed")
    assert edgewise(*ask(*pair, "--json")) == edgewise("run", model.bundle.path, *pair, "--json")


def test_lines_go_in_requests_of_many(edgewise, ask, model, tmp_path):
    texts = [f"text {number}" for number in range(70)]
    (tmp_path / "texts").write_text("\n".join(texts))
    result = edgewise(*ask("--task", "classify", "--file", tmp_path / "texts", "--top", "1"))
    values = [json.loads(line) for line in result.out.splitlines()]
    assert [value["text"] for value in values] == texts
    expected = [next(iter(labels)) for labels in model.classify(texts)]
    assert [value["labels"][0]["label"] for value in values] == expected


def test_a_faulty_line_is_named(edgewise, ask):
    result = edgewise(*ask("--task", "classify", "-"), stdin=b"a\n" + b"x" * 63 + b"\n")
    assert len(result.out.splitlines()) == 1
    assert "Line 2: hall answers 400: 'xxx" in result.err
    assert "has 65 tokens, this model reads at most 64" in result.err


def test_what_the_agent_does_not_do_is_said(edgewise, ask):
    message = edgewise(*ask("Hello")).mistake()
    assert "501" in message
    assert "it can be asked to: classify, embed, cancel" in message
    message = edgewise(*ask("--task", "fill-mask", "x")).mistake()
    assert "cannot be asked to fill, which is none of its model's" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--task", "classify", "--max-tokens", "3", "x"], "--max-tokens: without meaning"),
        (["--task", "classify", "--system", "y", "x"], "--system: without meaning"),
        (["--top", "3", "x"], "--top: without meaning for the task generate"),
        (["--task", "embed", "--text-pair", "y", "-"], "--text-pair needs a TEXT"),
    ],
)
def test_options_without_meaning_are_refused(edgewise, ask, options, expected):
    assert expected in edgewise(*ask(*options)).mistake()

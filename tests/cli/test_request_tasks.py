"""``edgewise request --task``: texts judged by an agent with an encoder, over a broker."""

from __future__ import annotations

import contextlib
import json

import pytest

from edgewise.device import Agent, EmbeddedBroker
from edgewise.runtime import load
from edgewise.runtime.backends.fake_bundle import (
    write_fake_encoder_bundle,
    write_fake_sequence_bundle,
    write_fake_vision_bundle,
)

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


@pytest.fixture
def ask_of():
    """Give the arguments of a request to an agent with another model."""
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker())

        def ask(folder, *rest):
            model = stack.enter_context(load(folder))
            stack.enter_context(
                Agent(model, broker=broker.url, device=folder.name, protocol=broker.protocol)
            )
            asking = ("request", "--broker", broker.url, "--device", folder.name)
            return (*asking, "--protocol", broker.protocol, *rest)

        yield ask


def test_an_image_is_shown_to_an_agent(edgewise, ask_of, tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (3, 2), "red").save(tmp_path / "fox.png")
    folder = write_fake_vision_bundle(tmp_path / "llava")
    shown = ("What is this?", "--image", tmp_path / "fox.png", "--json")
    there = json.loads(edgewise(*ask_of(folder, *shown)).out)
    here = json.loads(edgewise("run", folder, *shown).out)
    assert there["text"] == here["text"]
    assert there["usage"]["prompt_tokens"] == here["statistics"]["prompt_tokens"]


def test_what_is_no_image_is_refused(edgewise, ask, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    message = edgewise(*ask("What?", "--image", tmp_path / "notes.png")).mistake()
    assert "notes.png is no image; accepted: image/jpeg" in message
    message = edgewise(*ask("I am", "--task", "classify", "--image", "x.png")).mistake()
    assert "--image: without meaning for the task classify" in message


def test_a_task_may_have_a_name_of_the_models_own(edgewise, ask_of, tmp_path):
    prefixes = {"translation-en-to-de": "translate English to German: "}
    folder = write_fake_sequence_bundle(tmp_path / "t5", reply="", prefixes=prefixes)
    named = ("The house.", "--task", "translation-en-to-de", "--max-tokens", "8")
    asking = ask_of(folder)
    there = edgewise(*asking, *named)
    here = edgewise("run", folder, *named)
    assert there.out == here.out
    message = edgewise(*asking, "x", "--task", "to-fr").mistake()
    assert "knows: translation-en-to-de" in message
    assert "--system: without" in edgewise(*asking, *named, "--system", "Be kind.").mistake()

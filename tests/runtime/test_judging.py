"""Judgements in the types of JSON: the same that the models give."""

import json

import numpy as np
import pytest

from edgewise.runtime.backends.fake import hashed
from edgewise.runtime.backends.fake_bundle import write_fake_bundle, write_fake_encoder_bundle
from edgewise.runtime.judging import judge
from edgewise.runtime.loading import load
from edgewise.runtime.options import OptionsError
from edgewise.runtime.sessions.encoder import EncoderError
from edgewise.runtime.tasks import TaskError

KNOWN = ("O", "B-PER", "I-PER")


@pytest.fixture
def encoder(tmp_path):
    """Load an encoder that was made for some tasks."""
    models = []

    def make(*tasks, labels=()):
        folder = write_fake_encoder_bundle(tmp_path / tasks[0], tasks=tasks, labels=labels)
        models.append(load(folder))
        return models[-1]

    yield make
    for model in models:
        model.close()


def checked(judgements):
    """Return judgements after a way through JSON, which must not change them."""
    assert json.loads(json.dumps(judgements)) == judgements
    return judgements


def test_labels_are_cut_behind_the_best(encoder):
    model = encoder("classify", labels=("a", "b", "c"))
    texts = ["one", ("two", "three")]
    for text, labels, found in zip(
        texts,
        model.classify(texts),
        checked(judge(model, "classify", texts, top=2)),
        strict=True,
    ):
        best = list(labels.items())[:2]
        assert found == {"labels": [{"label": one, "probability": p} for one, p in best]}, text
    assert judge(model, "classify", []) == []


def test_parts_of_a_text(encoder):
    model = encoder("token-classify", labels=KNOWN)
    (spans, none) = checked(judge(model, "token-classify", ["Ada met Bo in Rome", ""]))
    expected = model.token_classify(["Ada met Bo in Rome"])[0]
    assert spans["spans"]
    assert [tuple(span.values()) for span in spans["spans"]] == [
        (one.text, one.label, one.probability, one.start, one.end) for one in expected
    ]
    assert none == {"spans": []}


def test_words_for_masks(encoder):
    model = encoder("fill-mask")
    ((found),) = checked(judge(model, "fill-mask", ["a[MASK]"], top=3))
    assert found["mask"] == "[MASK]"
    assert found["masks"] == [[word._asdict() for word in model.fill_mask("a[MASK]", count=3)[0]]]


def test_numbers_of_a_vector_are_as_short_as_float32_allows(encoder):
    model = encoder("embed")
    texts = [f"text {number}" for number in range(50)]
    found = checked(judge(model, "embed", texts))
    vectors = np.float32([one["vector"] for one in found])
    np.testing.assert_array_equal(vectors, model.embed(texts))
    assert max(len(str(number)) for one in found for number in one["vector"]) <= 16


def test_scores_of_a_decoder(tmp_path):
    with load(write_fake_bundle(tmp_path / "b", scores=("wrong", "right"))) as model:
        found = checked(judge(model, "score", ["2 + 2 = 4", "x"]))
        for text, one in zip(["2 + 2 = 4", "x"], found, strict=True):
            scores = hashed(model.tokenizer.encode(text), 2, seed=0)
            assert [score["score"] for score in one["scores"]] == scores.tolist()
            assert [score["label"] for score in one["scores"]] == ["wrong", "right"]
        with pytest.raises(OptionsError, match="takes texts one by one"):
            judge(model, "score", [("a", "b")])


def test_what_a_task_or_a_bundle_does_not_take_is_refused(encoder, tmp_path):
    model = encoder("embed")
    with pytest.raises(OptionsError, match="task embed takes texts one by one; a pair was given"):
        judge(model, "embed", ["x", ("y", "z")])
    with pytest.raises(TaskError, match="not made for the task classify, but for embed"):
        judge(model, "classify", ["x"])
    with pytest.raises(EncoderError, match="has 65 tokens, this model reads at most 64"):
        judge(model, "embed", ["x" * 63])
    with (
        load(write_fake_bundle(tmp_path / "decoder")) as decoder,
        pytest.raises(OptionsError, match="the task is generate; accepted here: classify, token"),
    ):
        judge(decoder, "generate", ["x"])

"""Verification of encoders and encoder-decoders: closed forms, and graphs broken on purpose."""

import dataclasses
import math

import numpy as np
import pytest
from tiny_families import ENCODERS, TinyEncoder, TinyEncoderDecoder
from tiny_family_folders import write_family_folder

from edgewise.exporter import export, open_checkpoint
from edgewise.exporter.comparison import GATES, Comparison, Gate, failure
from edgewise.exporter.planning import make_plan
from edgewise.exporter.targets import find_target
from edgewise.exporter.verify import verify
from edgewise.firmware_profiles import load_profile

OPEN_GATE = Gate(0.0, math.inf)


# Vectors


def vectors(*pairs, gate=OPEN_GATE):
    comparison = Comparison()
    for expected, actual in pairs:
        comparison.add_vector(np.float32(expected), np.float32(actual))
    return comparison.result(gate)


@pytest.mark.parametrize(
    ("left", "right", "cosine"),
    [
        ([1, 0], [1, 0], 1),
        ([1, 0], [5, 0], 1),
        ([1, 0], [0, 2], 0),
        ([1, 0], [-1, 0], -1),
        ([3, 4], [4, 3], 24 / 25),
        ([1e30, 0], [1e30, 1e30], math.sqrt(0.5)),
        ([0, 0], [0, 0], 1),
        ([0, 0], [1, 0], 0),
    ],
)
def test_the_cosine_is_the_closed_form(left, right, cosine):
    assert vectors((left, right)).smallest_cosine == pytest.approx(cosine, abs=1e-12)


def test_the_worst_vector_counts():
    figures = vectors(([1, 0], [1, 0]), ([1, 0], [1, 1]), ([0, 1], [0, 1]))
    assert figures.smallest_cosine == pytest.approx(math.sqrt(0.5))
    assert (figures.positions, figures.largest_difference, figures.largest_logit) == (3, 1, 1)
    assert (figures.top1_agreement, figures.mean_divergence) == (None, None)


@pytest.mark.parametrize("bits", GATES)
def test_each_gate_is_met_at_its_edge_and_missed_behind_it(bits):
    gate = dataclasses.replace(GATES[bits], largest_difference=None)
    for slack, passes in ((1e-9, True), (-1e-6, False)):
        cosine = gate.smallest_cosine + slack
        pair = ([1, 0], [cosine, math.sqrt(1 - cosine**2)])
        expected, actual = (np.asarray(vector, np.float64) for vector in pair)
        comparison = Comparison()
        comparison.add_vector(expected, actual)
        assert comparison.result(gate).passed is passes


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_fails_every_gate(value):
    figures = vectors(([1, 0], [1, 0]), ([1, 0], [value, 0]))
    assert not figures.passed
    assert figures.smallest_cosine == -1


def test_vectors_and_choices_are_held_to_the_gate_together():
    gate = Gate(0.5, 1.0, None, 0.9)
    for vector, logits, passes in (
        ([1, 0], [2, 1], True),
        ([0, 1], [2, 1], False),
        ([1, 0], [1, 2], False),
    ):
        comparison = Comparison()
        comparison.add_vector(np.float32([1, 0]), np.float32(vector))
        comparison.add(np.float32([2, 1]), np.float32(logits))
        assert comparison.result(gate).passed is passes


def test_a_choice_within_a_tie_agrees():
    for tie, agreement in ((0.0, 0.0), (0.1, 0.0), (0.3, 1.0)):
        comparison = Comparison()
        comparison.add(np.float32([1.0, 0.8, 0]), np.float32([0.8, 1.0, 0]), tie=tie)
        assert comparison.result(OPEN_GATE).top1_agreement == agreement


def test_the_refusal_names_the_cosine_alone_where_nothing_is_chosen():
    message = str(failure(vectors(([1, 0], [0, 1]), gate=GATES[8]), "int8"))
    assert "smallest cosine 0.0000 (at least 0.9800)" in message
    assert "top-1" not in message


# Broken graphs

SWAPS = {
    "bert_features": ("attention.self.query", "attention.self.value"),
    "roberta_masked_language_model": ("attention.self.key", "attention.self.value"),
    "bert_token_classification": ("attention.self.value", "attention.output.dense"),
    "t5_v1_1": ("EncDecAttention.k", "EncDecAttention.v"),
}


class Swapped:
    """Tensors of which two kinds answer under each other's name."""

    def __init__(self, checkpoint, first, second):
        self._tensors, self._first, self._second = checkpoint.tensors, first, second

    def __getitem__(self, name):
        for this, other in ((self._first, self._second), (self._second, self._first)):
            if f".{this}." in f".{name}":
                return self._tensors[name.replace(this, other)]
        return self._tensors[name]


@pytest.fixture(params=SWAPS)
def case(request, tmp_path):
    name = request.param
    model = TinyEncoder(name) if name in ENCODERS else TinyEncoderDecoder(name)
    folder = write_family_folder(model, tmp_path / name)
    with open_checkpoint(str(folder)) as checkpoint:
        yield name, folder, checkpoint


@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
def test_swapped_weights_miss_the_gate_and_sound_ones_pass(case, tmp_path, runtime):
    """The graph is fp32, so that nothing but the swap is between it and the reference."""
    name, folder, checkpoint = case
    board = load_profile("raspberry_pi_5")
    bundle = export(
        str(folder),
        profile=board,
        runtime=runtime,
        recipe="fp32",
        output=tmp_path / "sound",
        verification=False,
    ).bundle
    plan = make_plan(checkpoint, board, runtime=runtime, recipe="fp32")
    target = find_target(runtime)
    broken = dataclasses.replace(checkpoint, tensors=Swapped(checkpoint, *SWAPS[name]))
    (tmp_path / "broken").mkdir()
    target.build(broken, plan, tmp_path / "broken", lambda *_: None)
    other = dataclasses.replace(bundle, path=tmp_path / "broken")
    for opened, passes in ((bundle, True), (other, False)):
        backend = target.load(opened, threads=1, capacity=48)
        figures = verify(checkpoint, plan, backend, bundle.manifest)
        backend.close()
        assert figures.passed is passes
        if not passes and figures.smallest_cosine is not None:
            assert figures.smallest_cosine < 0.99

"""Verification: figures in closed form, gates by precision, graphs broken on purpose."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoint import ArraySource

from edgewise.exporter import open_checkpoint
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.comparison import (
    FLOAT32_TOLERANCE,
    GATES,
    Comparison,
    Gate,
    Verification,
    failure,
)
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.planning import make_plan
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.exporter.targets.onnx import build
from edgewise.exporter.verify import MOST_TOKENS, TEXTS, verification_ids, verify
from edgewise.firmware_profiles import load_profile
from edgewise.runtime.backends.onnx import OnnxBackend
from edgewise.runtime.bundle import Bundle

OPEN_GATE = Gate(0.0, math.inf)


def logits_of(*probabilities: float) -> np.ndarray:
    """Logits of a distribution, shifted by what no softmax sees."""
    return (np.log(probabilities) + 3.0).astype(np.float32)


def compared(*pairs: tuple[np.ndarray, np.ndarray], gate: Gate = OPEN_GATE) -> Verification:
    comparison = Comparison()
    for expected, actual in pairs:
        comparison.add(expected, actual)
    return comparison.result(gate)


# Figures


def test_the_divergence_is_the_closed_form():
    figures = compared((logits_of(0.5, 0.25, 0.25), logits_of(0.25, 0.25, 0.5)))
    assert figures.mean_divergence == pytest.approx(0.25 * math.log(2), rel=1e-6)


def test_the_divergence_is_taken_from_the_reference():
    expected, actual = logits_of(0.9, 0.1), logits_of(0.5, 0.5)
    forward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    backward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert compared((expected, actual)).mean_divergence == pytest.approx(forward, rel=1e-5)
    assert compared((actual, expected)).mean_divergence == pytest.approx(backward, rel=1e-5)


def test_figures_are_means_over_positions():
    same = logits_of(0.7, 0.2, 0.1)
    other = logits_of(0.2, 0.7, 0.1)
    figures = compared((same, same), (same, other), (other, other), (other, same))
    assert figures.positions == 4
    assert figures.top1_agreement == 0.5
    assert figures.mean_divergence == pytest.approx(0.5 * 0.5 * math.log(3.5), rel=1e-5)
    assert figures.largest_logit == pytest.approx(3 - math.log(10) + math.log(7), rel=1e-5)
    assert figures.largest_difference == pytest.approx(math.log(3.5), rel=1e-5)


def test_equal_logits_differ_by_nothing():
    row = np.random.default_rng(1).normal(0, 5, 1000).astype(np.float32)
    figures = compared((row, row), gate=GATES[32])
    assert (figures.top1_agreement, figures.mean_divergence) == (1.0, 0.0)
    assert figures.largest_difference == 0.0
    assert figures.passed


@given(st.integers(0, 2**32 - 1), st.floats(0, 3), st.floats(-50, 50))
def test_a_divergence_is_never_negative_and_no_shift_changes_it(seed, noise, shift):
    random = np.random.default_rng(seed)
    expected = random.normal(0, 3, 64).astype(np.float32)
    actual = (expected + random.normal(0, noise, 64)).astype(np.float32)
    figures = compared((expected, actual))
    shifted = compared((expected, (actual + np.float32(shift)).astype(np.float32)))
    assert figures.mean_divergence >= 0
    assert shifted.mean_divergence == pytest.approx(figures.mean_divergence, abs=1e-4)


def test_logits_far_apart_do_not_overflow():
    figures = compared((np.float32([1000, -1000]), np.float32([-1000, 1000])))
    assert figures.mean_divergence == pytest.approx(2000)
    assert figures.top1_agreement == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["expected", "actual"])
def test_one_number_that_is_none_fails_every_gate(value, side):
    good = logits_of(0.7, 0.2, 0.1)
    bad = good.copy()
    bad[2] = value
    pair = (bad, good) if side == "expected" else (good, bad)
    for gate in (*GATES.values(), OPEN_GATE):
        figures = compared((good, good), pair, (good, good), gate=gate)
        assert not figures.passed
        assert figures.top1_agreement == 0.0
        assert all(
            math.isfinite(number)
            for number in dataclasses.asdict(figures).values()
            if isinstance(number, float)
        )  # NaN is no JSON


# Gates


@pytest.mark.parametrize("bits", GATES)
def test_each_gate_is_met_at_its_edge_and_missed_behind_it(bits):
    gate = GATES[bits]
    edge = Verification(
        positions=1,
        top1_agreement=gate.top1_agreement,
        mean_divergence=gate.mean_divergence,
        largest_difference=0.0,
        largest_logit=1.0,
        gate=gate,
        passed=True,
    )
    same, other = logits_of(0.6, 0.3, 0.1), logits_of(0.3, 0.6, 0.1)
    count = 200
    agreeing = math.ceil(edge.top1_agreement * count)
    near = logits_of(0.6, 0.3, 0.1)
    positions = [(same, near)] * agreeing + [(same, other)] * (count - agreeing)
    divergence = compared(*positions).mean_divergence
    assert compared(*positions, gate=gate).passed == (divergence <= gate.mean_divergence)
    worse = [(same, near)] * (agreeing - 1) + [(same, other)] * (count - agreeing + 1)
    assert not compared(*worse, gate=gate).passed


def test_float32_is_held_to_every_logit_relative_to_the_largest():
    for scale in (0.1, 1.0, 40.0):
        row = np.float32([scale, 0, -scale])
        allowed = FLOAT32_TOLERANCE * max(1.0, scale)
        near, far = row.copy(), row.copy()
        near[1] += 0.9 * allowed
        far[1] += 1.1 * allowed
        assert compared((row, near), gate=Gate(1, 1, FLOAT32_TOLERANCE)).passed
        assert not compared((row, far), gate=Gate(1, 1, FLOAT32_TOLERANCE)).passed


@pytest.mark.parametrize(
    ("recipe", "bits"),
    [
        ("fp32", 32),
        ("keep", 32),
        ("keep,activations=int8", 8),
        ("fp16", 16),
        ("fp32,head=fp16", 16),
        ("int8", 8),
        ("int8-block32,activations=float32", 8),
        ("int4", 4),
        ("int8,embedding=int4-block32", 4),
        ("fp32,mlp=int4-block128,activations=float32", 4),
    ],
)
def test_the_gate_follows_the_least_precise_matrix(tiny_folder, recipe, bits):
    with open_checkpoint(str(tiny_folder("qwen2_tied"))) as checkpoint:
        plan = make_plan(checkpoint, load_profile("raspberry_pi_5"), recipe=recipe)
    assert plan.gate_bits == bits


def test_gates_are_looser_with_fewer_bits():
    gates = [GATES[bits] for bits in sorted(GATES, reverse=True)]
    assert gates == sorted(gates, key=lambda gate: -gate.top1_agreement)
    assert gates == sorted(gates, key=lambda gate: gate.mean_divergence)


@pytest.mark.parametrize(
    ("bits", "advice"), [(4, "--recipe int8"), (8, "--recipe fp16"), (16, "--recipe fp32")]
)
def test_the_refusal_advises_more_bits(bits, advice):
    figures = compared((logits_of(0.9, 0.1), logits_of(0.1, 0.9)), gate=GATES[bits])
    message = str(failure(figures, "the recipe"))
    assert advice in message
    assert "--force" in message
    assert f"at least {GATES[bits].top1_agreement:.3f}" in message


def test_a_failure_at_full_precision_is_no_fault_of_the_user():
    figures = compared((logits_of(0.9, 0.1), logits_of(0.1, 0.9)), gate=GATES[32])
    assert "--recipe" not in str(failure(figures, "fp32"))
    assert "report it" in str(failure(figures, "fp32"))


# Texts


def test_the_texts_are_long_enough_for_real_tokenizers():
    """A tokenizer needs at least a token for six characters of English."""
    assert all(len(text) >= 6 * 0.5 * MOST_TOKENS for text in TEXTS)
    assert len(set(TEXTS)) == len(TEXTS)


@pytest.mark.parametrize("most", [1, 2, 7, 48])
def test_ids_have_one_length_within_what_is_allowed(tiny_folder, most):
    with open_checkpoint(str(tiny_folder("qwen2_tied"))) as checkpoint:
        ids = verification_ids(checkpoint, 300, most)
    assert ids.shape == (len(TEXTS), most)
    assert ids.dtype == np.int64


def test_a_tokenizer_that_knows_no_word_of_the_texts_still_gives_ids(tiny_folder):
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE({"☃": 0}, []))  # leaves out what it does not know
    with open_checkpoint(str(tiny_folder("qwen2_tied"))) as checkpoint:
        files = dataclasses.replace(checkpoint.tokenizer, tokenizer_json=tokenizer.to_str())
        ids = verification_ids(dataclasses.replace(checkpoint, tokenizer=files), 300)
    assert ids.shape == (len(TEXTS), 2)
    assert ids.min() >= 0


def test_ids_past_the_vocabulary_are_folded_into_it(tiny_folder):
    with open_checkpoint(str(tiny_folder("qwen2_tied"))) as checkpoint:
        assert verification_ids(checkpoint, 40).max() < 40


# Broken graphs


class Renamed:
    """Tensors of which some answer under another's name, as a broken exporter would mix them up."""

    def __init__(self, checkpoint: Checkpoint, swapped: dict[str, str]) -> None:
        self._tensors = checkpoint.tensors
        self._swapped = swapped

    def __getitem__(self, name: str) -> object:
        return self._tensors[self._swapped.get(name, name)]


def verified(
    checkpoint: Checkpoint, plan: ExportPlan, bundle: Bundle, folder, broken: Checkpoint
) -> Verification:
    """Verify the graph of a broken checkpoint against the sound one."""
    build(broken, plan, folder, lambda *_: None)
    backend = OnnxBackend(dataclasses.replace(bundle, path=folder), threads=1, capacity=MOST_TOKENS)
    try:
        return verify(checkpoint, plan, backend, bundle.manifest)
    finally:
        backend.close()


@pytest.fixture
def opened(tiny_folder):
    with open_checkpoint(str(tiny_folder("llama_tied_wide_head"))) as checkpoint:
        yield checkpoint


def swap(first: str, second: str) -> dict[str, str]:
    parts = (
        "self_attn.q_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
    names = [(f"{first}.{part}.weight", f"{second}.{part}.weight") for part in parts]
    return dict(names) | {b: a for a, b in names}


@pytest.mark.parametrize(
    "swapped",
    [
        pytest.param(swap("model.layers.0", "model.layers.2"), id="two layers"),
        pytest.param(
            {
                "model.layers.1.mlp.gate_proj.weight": "model.layers.1.mlp.up_proj.weight",
                "model.layers.1.mlp.up_proj.weight": "model.layers.1.mlp.gate_proj.weight",
            },
            id="gate and up",
        ),
        pytest.param(
            {
                "model.layers.0.self_attn.k_proj.weight": "model.layers.0.self_attn.v_proj.weight",
                "model.layers.0.self_attn.v_proj.weight": "model.layers.0.self_attn.k_proj.weight",
            },
            id="key and value",
        ),
    ],
)
def test_swapped_weights_miss_even_the_int4_gate(opened, bundle, tmp_path, swapped):
    """The graph is fp32, so that nothing but the swap is between it and the reference."""
    plan = make_plan(opened, load_profile("raspberry_pi_5"), recipe="fp32")
    broken = dataclasses.replace(opened, tensors=Renamed(opened, swapped))
    figures = verified(opened, plan, bundle, tmp_path, broken)
    assert not figures.passed
    assert (
        figures.top1_agreement < GATES[4].top1_agreement
        or figures.mean_divergence > GATES[4].mean_divergence
    )


def test_a_sound_graph_passes_the_same_way(opened, bundle, tmp_path):
    plan = make_plan(opened, load_profile("raspberry_pi_5"), recipe="fp32")
    assert verified(opened, plan, bundle, tmp_path, opened).passed


class Scaled:
    """One tensor times a factor: the smallest fault that fp32's gate has to see."""

    def __init__(self, checkpoint: Checkpoint, name: str, factor: float) -> None:
        self._tensors, self._name, self._factor = checkpoint.tensors, name, factor

    def __getitem__(self, name: str) -> object:
        tensor = self._tensors[name]
        if name != self._name:
            return tensor
        return ArraySource(tensor.read() * np.float32(self._factor))


def test_one_layer_that_is_a_hundredth_off_misses_the_fp32_gate(opened, bundle, tmp_path):
    plan = make_plan(opened, load_profile("raspberry_pi_5"), recipe="fp32")
    scaled = Scaled(opened, "model.layers.1.self_attn.o_proj.weight", 1.01)
    broken = dataclasses.replace(opened, tensors=scaled)
    assert not verified(opened, plan, bundle, tmp_path, broken).passed


def test_a_graph_whose_numbers_overflow_fails(opened, bundle, tmp_path):
    plan = make_plan(opened, load_profile("raspberry_pi_5"), recipe="fp32")
    scaled = Scaled(opened, "model.layers.0.mlp.down_proj.weight", 1e35)
    broken = dataclasses.replace(opened, tensors=scaled)
    figures = verified(opened, plan, bundle, tmp_path, broken)
    assert not figures.passed
    assert Recipe.parse("fp32") == plan.recipe

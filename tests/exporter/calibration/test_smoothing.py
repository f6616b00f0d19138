"""Moving outliers into weights: exact in float32, and better in int8 where there are outliers."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_checkpoint import CASES

from edgewise.exporter import export, open_checkpoint
from edgewise.exporter.calibration import smoothing
from edgewise.exporter.calibration.folding import folds_of
from edgewise.exporter.calibration.rounding import rounded_ranges, rounded_tokens
from edgewise.exporter.calibration.smoothing import (
    Smoothing,
    best_factors,
    powers_of_two,
    put_factors,
    relative_error,
    smoothed,
)
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.scaling import Factors
from edgewise.exporter.planning import make_plan
from edgewise.exporter.quantize.channelwise import quantize_channelwise
from edgewise.firmware_profiles import load_profile

FAMILIES = {
    "llama_tied_wide_head": {"norm", "gate", "value"},
    "llama_multi_head_biases": {"norm", "gate", "value"},
    "qwen2_untied": {"norm", "gate", "value"},
    "qwen3": {"norm", "gate", "value"},
    "gemma3_windows": {"norm", "gate", "value"},
    "phi3_window": {"norm", "gate", "value"},
    "phi_half_rotary": {"norm", "value"},  # no gate: an activation function stands in between
    "gpt2_tied": {"norm", "value"},
}
WINDOWS = np.random.default_rng(5).integers(3, 60, (4, 40))


def nothing(*_):
    """Report to nobody."""


@pytest.fixture(params=FAMILIES)
def opened(request, tiny_folder):
    name = next(name for name in CASES if name.startswith(request.param))
    with open_checkpoint(str(tiny_folder(name))) as checkpoint:
        yield request.param, checkpoint


def plan_of(checkpoint, recipe="int8", runtime="onnx"):
    return make_plan(checkpoint, load_profile("x86_64"), runtime=runtime, recipe=recipe)


def logits(plan, checkpoint):
    builder = NumpyBuilder(WINDOWS)
    plan.describe("forward", builder, checkpoint)
    return builder.logits


def random_factors(folds):
    """Give every place powers of two of its own."""
    rng, factors = np.random.default_rng(1), {}
    for fold in folds:
        count = int(fold.channels.max()) + 1
        put_factors(factors, fold, np.exp2(rng.integers(-6, 7, count)).astype(np.float32))
    return factors


def test_a_decoder_has_a_place_before_nearly_every_product(opened):
    name, checkpoint = opened
    plan = plan_of(checkpoint)
    folds = folds_of(plan, checkpoint)
    layers = plan.cache.layers
    assert {fold.place for fold in folds} == FAMILIES[name]
    for place in ("gate", "value"):
        expected = layers if place in FAMILIES[name] else 0
        assert sum(fold.place == place for fold in folds) == expected
    consumers = [weight.name for fold in folds for weight in fold.consumers]
    assert len(consumers) == len(set(consumers))
    matrices = sum(tensor.role in ("attention", "mlp") for tensor in plan.tensors.values())
    assert len(consumers) == matrices - (0 if "gate" in FAMILIES[name] else layers)


def test_folding_is_exact_in_float32(opened):
    """Powers of two change no digit: every sum has the same terms."""
    _, checkpoint = opened
    plan = plan_of(checkpoint)
    factors = random_factors(folds_of(plan, checkpoint))
    exact = logits(plan, checkpoint)
    found = logits(replace(plan, factors=factors), checkpoint)
    offset = getattr(plan.configuration, "norm_offset", 0.0)
    assert np.allclose(found, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
    if not offset and "gpt2" not in plan.architecture:
        assert np.array_equal(found, exact)


def test_one_factor_in_the_wrong_place_is_seen(opened):
    _, checkpoint = opened
    plan = plan_of(checkpoint)
    factors = random_factors(folds_of(plan, checkpoint))
    name = next(name for name, one in factors.items() if one.columns is not None)
    factors[name] = Factors(factors[name].rows, np.roll(factors[name].columns, 1))
    exact = logits(plan, checkpoint)
    found = logits(replace(plan, factors=factors), checkpoint)
    assert np.abs(found - exact).max() > 1e-2 * np.abs(exact).max()


def outliers(tokens=200, columns=64, channels=(3, 40), size=60.0):
    rng = np.random.default_rng(7)
    inputs = rng.standard_normal((tokens, columns)).astype(np.float32)
    inputs[:, list(channels)] *= size
    return inputs, rng.standard_normal((48, columns)).astype(np.float32)


@pytest.mark.parametrize("rounded", [rounded_tokens, rounded_ranges])
def test_outliers_cost_less_with_factors(rounded):
    inputs, matrix = outliers()
    strength, factors = best_factors(inputs, matrix, np.arange(64), rounded)
    assert strength > 0
    assert set(np.log2(factors) % 1) == {0}
    assert factors[3] > 3 * np.median(factors)
    exact = inputs @ matrix.T

    def error(scale):
        codes = quantize_channelwise(matrix * scale, bits=8).dequantize()
        return relative_error(rounded(inputs / scale) @ codes.T, exact)

    assert error(factors) < error(np.ones(64, np.float32)) / 3


def test_without_outliers_nothing_changes():
    rng = np.random.default_rng(2)
    inputs, matrix = rng.standard_normal((2, 100, 64)).astype(np.float32)
    strength, factors = best_factors(inputs, matrix, np.arange(64), rounded_tokens)
    assert strength == 0
    assert np.array_equal(factors, np.ones(64))


def test_rows_of_a_tall_matrix_stand_for_all_of_it():
    inputs, _ = outliers()
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((smoothing.MEASURED_ROWS * 3, 64)).astype(np.float32)
    matrix[:, 5] *= 8  # a wide column: it counts in all rows
    strength, factors = best_factors(inputs, matrix, np.arange(64), rounded_tokens)

    def error(scale):
        codes = quantize_channelwise(matrix * scale, bits=8).dequantize()
        return relative_error(rounded_tokens(inputs / scale) @ codes.T, inputs @ matrix.T)

    assert strength > 0
    assert error(factors) < error(np.ones(64, np.float32)) / 3


def test_channels_of_a_group_share_a_factor():
    inputs, matrix = outliers(channels=(3, 35))
    _, factors = best_factors(inputs, matrix, np.arange(64) % 32, rounded_tokens)
    assert factors.shape == (32,)
    assert factors.argmax() == 3


def test_factors_are_the_powers_of_two_nearest_to_the_closed_form():
    activations = np.array([1, 8, 64, 0, 4], np.float32)
    weights = np.array([1, 1, 1, 1, 0], np.float32)
    # Logarithms 0, 3 and 6 about their mean; what is never read or never occurs stays.
    assert powers_of_two(activations, weights, 1.0).tolist() == [1 / 8, 1, 8, 1, 1]
    assert powers_of_two(activations, weights, 0.5).tolist() == [1 / 4, 1, 4, 1, 1]


def test_ranges_keep_zero_and_lose_half_a_step_at_most():
    tokens = np.random.default_rng(0).standard_normal((50, 30)).astype(np.float32) + 1
    tokens[:, 0] = 0
    rounded = rounded_ranges(tokens)
    low, high = np.minimum(tokens.min(axis=1), 0), np.maximum(tokens.max(axis=1), 0)
    step = ((high - low) / 255)[:, None]
    assert np.array_equal(rounded[:, 0], np.zeros(50))
    assert (np.abs(rounded - tokens) <= step * 1.001).all()


def amplified(plan, checkpoint):
    """Make some channels of one MLP outliers, in a way that float32 does not see."""
    fold = next(fold for fold in folds_of(plan, checkpoint) if fold.place == "gate")
    channels = np.ones(int(fold.channels.max()) + 1, np.float32)
    channels[::16] = 2.0**-8
    factors = {}
    put_factors(factors, fold, channels)
    return replace(plan, factors=factors), fold.name


@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
def test_a_place_with_outliers_is_smoothed(tiny_folder, runtime):
    with open_checkpoint(str(tiny_folder("llama_tied_wide_head"))) as checkpoint:
        plan, name = amplified(plan_of(checkpoint, runtime=runtime), checkpoint)
        found = smoothed(checkpoint, plan, WINDOWS, nothing)
    assert found.strengths[name] > 0
    assert found.factors[f"{name}.weight"].columns is not None


def test_products_that_round_no_tokens_are_left(opened):
    _, checkpoint = opened
    for recipe in ("int4", "int8-block32", "fp32", "keep"):
        plan = plan_of(checkpoint, recipe)
        assert smoothed(checkpoint, plan, WINDOWS, nothing) == Smoothing({}, {})


@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
def test_a_bundle_tells_of_it_and_is_held_against_the_checkpoint(tiny_folder, tmp_path, runtime):
    text = tmp_path / "text.txt"
    text.write_text(" Hello, who are you? " * 400)
    found = export(
        str(tiny_folder("llama_tied_wide_head")), profile="x86_64", runtime=runtime,
        output=tmp_path / "bundle", recipe="int8", calibrate=text, context_length=64,
    )  # fmt: skip
    assert found.verification.passed
    strengths = found.bundle.manifest.calibration.smoothed
    factors = found.plan.factors
    assert {f"{name}.weight" for name in strengths} <= set(factors)

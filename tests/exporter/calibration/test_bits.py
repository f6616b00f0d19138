"""Which matrices get more bits: the measure against brute force, the choice against its rules."""

import numpy as np
import pytest
from tiny_checkpoint import CASES

from edgewise.exporter import export, open_checkpoint
from edgewise.exporter.budget import model_size
from edgewise.exporter.calibration import sensitivity
from edgewise.exporter.calibration.bits import (
    Candidate,
    better_than,
    chosen_within,
    formats_within,
    room_in,
)
from edgewise.exporter.calibration.errors import CalibrationError
from edgewise.exporter.calibration.rounding import rounded_tokens
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.model_size import weights_bytes
from edgewise.exporter.planning import make_plan
from edgewise.exporter.quantize.recipes import WeightFormat
from edgewise.exporter.quantize.streaming import quantize_tensors
from edgewise.firmware_profiles import load_profile

WINDOW = np.random.default_rng(5).integers(3, 60, 20)


def nothing(*_):
    """Report to nobody."""


def plan_of(checkpoint, recipe, runtime="onnx"):
    return make_plan(checkpoint, load_profile("x86_64"), runtime=runtime, recipe=recipe)


@pytest.fixture(params=["llama_tied_wide_head", "gpt2_tied", "llama_multi_head_biases"])
def opened(request, tiny_folder):
    assert request.param in CASES
    with open_checkpoint(str(tiny_folder(request.param))) as checkpoint:
        yield checkpoint


def states_with(plan, checkpoint, changed):
    """Return the states that enter the head, one product computed from changed matrices."""
    entered = []
    products = 0

    class Changing(NumpyBuilder):
        def linear(self, x, weights, biases=None):
            nonlocal products
            if weights[0].role not in ("attention", "mlp"):
                entered.append(x[0])
                return np.zeros((*x.shape[:-1], 1), np.float32)
            result = super().linear(x, weights, biases)
            if products == changed:
                form = plan.recipe.format_for(weights[0].role)
                for start, weight in starts(weights):
                    exact = weight.source.read()
                    error = quantize_tensors([weight.source], form).dequantize() - exact
                    result[..., start : start + len(exact)] += x @ error.T
            products += 1
            return result

    plan.describe("forward", Changing(WINDOW[None]), checkpoint)
    return entered[0][sensitivity.UNCOUNTED_TOKENS :], products


def starts(weights):
    start = 0
    for weight in weights:
        yield start, weight
        start += weight.shape[0]


def test_a_share_is_what_a_pass_with_that_product_alone_altered_gives(opened, monkeypatch):
    plan = plan_of(opened, "int4-block32-asymmetric")
    monkeypatch.setattr(sensitivity, "COPIES", 4)  # several passes, the last one not full

    def altered(weights, inputs):
        form = plan.recipe.format_for(weights[0].role)
        codes = [quantize_tensors([weight.source], form) for weight in weights]
        return np.concatenate([inputs @ one.dequantize().T for one in codes], axis=1)

    told = []
    shares = sensitivity.measure(opened, plan, WINDOW, altered, lambda *count: told.append(count))
    exact, products = states_with(plan, opened, None)
    assert len(shares) == products
    assert told[-1] == (products, products)
    for index, share in enumerate(shares):
        states, _ = states_with(plan, opened, index)
        expected = (np.square(states - exact).sum(axis=1) / np.square(exact).sum(axis=1)).mean()
        assert share == pytest.approx(expected, rel=2e-2)


def test_products_without_another_form_have_no_share(opened):
    plan = plan_of(opened, "int4")
    seen = []

    def altered(weights, inputs):
        seen.append(weights[0].role)
        if weights[0].role == "mlp":
            return None
        return np.zeros((len(inputs), sum(weight.shape[0] for weight in weights)), np.float32)

    shares = sensitivity.measure(opened, plan, WINDOW, altered, nothing)
    assert len(shares) == seen.count("attention") < len(seen)
    assert min(shares) > 0


def candidate(name, extra):
    return Candidate((name,), WeightFormat.parse("int8-block32"), extra)


def test_the_largest_share_a_byte_comes_first_as_far_as_there_is_room():
    candidates = [candidate("a", 100), candidate("b", 10), candidate("c", 40), candidate("d", 10)]
    shares = [5.0, 0.4, 3.0, 0.6]
    order = ["c", "d", "a", "b"]  # 0.075, 0.06, 0.05, 0.04

    def names(room):
        return [one.weights[0] for one in chosen_within(room, candidates, shares)]

    assert names(160) == order
    assert names(150) == ["c", "d", "a"]
    assert names(149) == ["c", "d", "b"]  # the next ones still have room
    assert names(9) == []


@pytest.mark.parametrize(
    ("text", "engine", "expected"),
    [
        ("int4-block64-asymmetric", "onnx", "int8-block64"),
        ("int4-block32", "tflite", "int8"),
        ("int4-channel", "tflite", "int8"),
        ("int8", "onnx", "int8-block32"),
        ("int8", "tflite", None),
        ("int8-block32", "onnx", None),
        ("fp16", "onnx", None),
        ("keep", "onnx", None),
    ],
)
def test_better_formats(text, engine, expected):
    found = better_than(WeightFormat.parse(text), engine)
    assert found == (None if expected is None else WeightFormat.parse(expected))


def test_tokens_are_rounded_in_steps_of_their_own():
    tokens = np.array([[127.0, 1.4, -0.6], [0.0, 0.0, 0.0], [1.27, 0.014, -1.27]], np.float32)
    expected = [[127, 1, -1], [0, 0, 0], [1.27, 0.01, -1.27]]
    assert np.allclose(rounded_tokens(tokens), expected, atol=1e-6)


@pytest.mark.parametrize("recipe", ["int4-block32-asymmetric", "int8"])
def test_more_room_raises_more_matrices_never_past_the_budget(opened, recipe):
    plan = plan_of(opened, recipe)
    least = weights_bytes(model_size(plan), plan.formats, "onnx")
    assert room_in(least + 7, plan) == 7
    counts = []
    for room in (0, 3000, 10_000, 10**9):
        chosen = formats_within(room, opened, plan, WINDOW, nothing)
        extra = 0
        for matrix in chosen.values():
            rows, columns = matrix.shape
            had = plan.recipe.format_for("mlp")
            extra += stored_bytes(matrix.form, rows, columns) - stored_bytes(had, rows, columns)
        assert extra <= room
        counts.append(len(chosen))
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == sum(t.role in ("attention", "mlp") for t in plan.tensors.values())


def stored_bytes(form, rows, columns):
    array = np.ones((rows, columns), np.float32)

    class Source:
        shape, stored_type = (rows, columns), "F32"

        def read(self, start=0, stop=None):
            return array[start:stop]

        def read_blocks(self, start=0, stop=None):
            return None

    return quantize_tensors([Source()], form).nbytes


@pytest.mark.parametrize(
    ("recipe", "budget", "message"),
    [
        ("int4", 1000, r"the budget is 1000 bytes, but with recipe 'int4' .* take \d+; give more"),
        ("int8-block32", 10**9, "has attention=int8-block32, mlp=int8-block32, for which there"),
    ],
)
def test_a_budget_that_leaves_nothing_to_do_is_refused(opened, recipe, budget, message):
    with pytest.raises(CalibrationError, match=message):
        room_in(budget, plan_of(opened, recipe))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" Hello, who are you? " * 400)
    return path


@pytest.mark.parametrize(
    ("runtime", "recipe"), [("onnx", "int4"), ("onnx", "int8"), ("tflite", "int4")]
)
def test_a_bundle_says_which_matrices_have_formats_of_their_own(
    tiny_folder, tmp_path, text, runtime, recipe
):
    folder = str(tiny_folder("qwen2_untied"))
    with open_checkpoint(folder) as checkpoint:
        plan = plan_of(checkpoint, recipe, runtime)
        least = weights_bytes(model_size(plan), plan.formats, runtime)
    sizes = []
    for name, budget in (("none", None), ("some", least + 3000), ("all", 10**9)):
        bundle = export(
            folder, profile="x86_64", runtime=runtime, output=tmp_path / name, recipe=recipe,
            calibrate=text, budget=budget, force=True, context_length=64,
        ).bundle  # fmt: skip
        formats = bundle.manifest.calibration.formats
        sizes.append((len(formats), sum(file.bytes for file in bundle.manifest.files)))
        better = better_than(WeightFormat.parse(bundle.manifest.formats["mlp"]), runtime)
        assert set(formats.values()) <= {str(better)}
    assert sizes == sorted(sizes)
    assert sizes[0][0] == 0
    assert sizes[2][0] == 7 * bundle.manifest.cache.layers


def test_a_budget_without_a_text_is_refused(tiny_folder, tmp_path):
    with pytest.raises(CalibrationError, match="a budget of 5 bytes was given without a text"):
        export(str(tiny_folder("qwen2_untied")), profile="x86_64", output=tmp_path / "x", budget=5)

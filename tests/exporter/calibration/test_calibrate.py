"""Calibrated exports of tiny models: what is prepared, where it ends up, what it is good for."""

import hashlib

import numpy as np
import onnx
import pytest
from tiny_checkpoint import CASES

from edgewise.exporter import export, open_checkpoint
from edgewise.exporter.calibration.builder import CalibratingBuilder
from edgewise.exporter.calibration.calibrate import calibrate
from edgewise.exporter.calibration.errors import CalibrationError
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.planning import make_plan
from edgewise.exporter.quantize.error_feedback import (
    InputStatistics,
    quantize_with_feedback,
    without_outliers,
)
from edgewise.exporter.quantize.prepared import PreparedMatrix
from edgewise.exporter.quantize.recipes import WeightFormat
from edgewise.exporter.quantize.streaming import quantize_tensors
from edgewise.firmware_profiles import load_profile

FAMILIES = ["llama_tied_wide_head", "qwen2_untied", "gpt2", "phi3", "gemma3"]
WINDOWS = np.random.default_rng(5).integers(3, 60, (12, 40))


def nothing(*_):
    """Report to nobody."""


def plan_of(checkpoint, recipe, runtime="onnx"):
    return make_plan(checkpoint, load_profile("x86_64"), runtime=runtime, recipe=recipe)


@pytest.fixture(params=FAMILIES)
def opened(request, tiny_folder):
    with open_checkpoint(str(tiny_folder(case_of(request.param)))) as checkpoint:
        yield checkpoint


def case_of(family):
    return next(name for name in CASES if name.startswith(family))


def states(plan, checkpoint, builder):
    """Run a pass and return what enters every product, in order."""
    entering = []
    inner = builder.linear

    def linear(x, weights, biases=None):
        entering.append((weights[0].name, x))
        return inner(x, weights, biases)

    builder.linear = linear
    plan.describe("forward", builder, checkpoint)
    return entering


def test_without_changes_the_pass_is_the_references(opened):
    plan = plan_of(opened, "int4")
    read = CalibratingBuilder(WINDOWS, lambda weights, _: [w.source.read() for w in weights])
    found = states(plan, opened, read)
    expected = states(plan, opened, NumpyBuilder(WINDOWS))
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        assert np.allclose(one, other, atol=1e-4 * np.abs(other).max())


def test_every_matrix_is_rounded_for_the_inputs_that_the_ones_before_it_lead_to(opened, tmp_path):
    """A second pass over the prepared matrices comes to the same codes."""
    plan = plan_of(opened, "int4-block32-asymmetric")
    calibrated = calibrate(opened, plan, WINDOWS, tmp_path, nothing)
    seen = []

    def check(weights, inputs):
        statistics = InputStatistics(inputs.shape[1])
        statistics.add(without_outliers(inputs))
        feedback = statistics.feedback()
        matrices = []
        for weight in weights:
            codes = weight.stored.prepared(weight.format_in(plan.recipe), "float32")
            again = quantize_with_feedback(weight.source.read(), feedback, weight.stored.form)
            for key, array in again.arrays().items():
                assert np.array_equal(array, codes.arrays()[key])
            matrices.append(codes.dequantize())
            seen.append(weight.name)
        return matrices

    calibrated.describe("forward", CalibratingBuilder(WINDOWS, check), opened)
    assert sorted(seen) == sorted(calibrated.prepared)


def test_the_logits_come_nearer_on_other_tokens(tiny_folder, tmp_path):
    with open_checkpoint(str(tiny_folder("llama_tied_wide_head"))) as checkpoint:
        plan = plan_of(checkpoint, "int4-block32-asymmetric")
        calibrated = calibrate(checkpoint, plan, WINDOWS, tmp_path, nothing)
        other = np.random.default_rng(6).integers(3, 60, (8, 40))

        def logits(matrix_of):
            class Replacing(NumpyBuilder):
                def linear(self, x, weights, biases=None):
                    if weights[0].role == "head":
                        return super().linear(x, weights, biases)
                    return np.concatenate([x @ matrix_of(w).T for w in weights], axis=-1)

            builder = Replacing(other)
            calibrated.describe("forward", builder, checkpoint)
            return builder.logits

        exact = logits(lambda w: w.source.read())
        form = WeightFormat.parse("int4-block32-asymmetric")
        plain = logits(lambda w: quantize_tensors([w.source], form).dequantize())
        better = logits(lambda w: quantize_tensors([w.stored], form).dequantize())
    assert np.square(better - exact).mean() < 0.8 * np.square(plain - exact).mean()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = np.random.default_rng(7).integers(3, 60, 1500)
    path.write_text(" ".join(f"w{word}" for word in words) + " Hello, who are you? " * 300)
    return path


@pytest.mark.parametrize("recipe", ["int4", "int4-block64-asymmetric,mlp=int8-block32", "int8"])
def test_the_bundle_holds_the_prepared_codes(tiny_folder, tmp_path, text, recipe):
    folder = str(tiny_folder("qwen2_untied"))
    report = export(
        folder, profile="x86_64", runtime="onnx", output=tmp_path / "bundle", recipe=recipe,
        calibrate=text, force=True,
    )  # fmt: skip
    plain = export(
        folder, profile="x86_64", runtime="onnx", output=tmp_path / "plain", recipe=recipe,
        force=True,
    )  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "plain"]
    files = sorted(path.name for path in report.bundle.path.iterdir())
    assert files == sorted(path.name for path in plain.bundle.path.iterdir())
    manifest = report.bundle.manifest
    calibration = manifest.calibration
    assert plain.bundle.manifest.calibration is None
    assert calibration.method == "error feedback"
    assert calibration.text_sha256 == hashlib.sha256(text.read_bytes()).hexdigest()
    assert calibration.matrices == 7 * manifest.cache.layers
    assert calibration.formats == {}
    assert 512 <= calibration.tokens <= 4096
    mine, others = (stored(bundle) for bundle in (report.bundle, plain.bundle))
    assert mine.keys() == others.keys()
    differing = {name for name in mine if not np.array_equal(mine[name], others[name])}
    assert any("down_proj" in name for name in differing)
    assert not any("embed" in name or "lm_head" in name for name in differing)


def stored(bundle):
    model = onnx.load(bundle.path / "model.onnx")
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_a_tflite_bundle_holds_the_prepared_codes(tiny_folder, tmp_path, text, recipe):
    pytest.importorskip("ai_edge_litert")
    folder = str(tiny_folder("llama_tied_wide_head"))
    bundles = [
        export(
            folder, profile="x86_64", runtime="tflite", output=tmp_path / name, recipe=recipe,
            calibrate=given, force=True, context_length=64,
        ).bundle
        for name, given in (("a", text), ("b", None))
    ]  # fmt: skip
    contents = [(bundle.path / "model.tflite").read_bytes() for bundle in bundles]
    assert len(contents[0]) == len(contents[1])
    assert contents[0] != contents[1]
    assert bundles[0].manifest.calibration.matrices > 0


@pytest.mark.parametrize(
    ("case", "recipe", "message"),
    [
        ("llama_tied_wide_head", "fp16", "has attention=fp16, mlp=fp16, of which calibration"),
        ("llama_tied_wide_head", "keep", "has attention=keep, mlp=keep, of which calibration"),
    ],
)
def test_what_a_text_changes_nothing_of_is_refused(
    tiny_folder, tmp_path, text, case, recipe, message
):
    with pytest.raises(CalibrationError, match=message):
        export(
            str(tiny_folder(case)), profile="x86_64", runtime="onnx", output=tmp_path / "x",
            recipe=recipe, calibrate=text,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_prepared_matrix_is_stored_in_its_own_form_only(tmp_path):
    weights = np.random.default_rng(8).normal(size=(4, 64)).astype(np.float32)

    class Source:
        shape, stored_type = (4, 64), "F32"

        def read(self, start=0, stop=None):
            return weights[start:stop]

        def read_blocks(self, start=0, stop=None):
            return None

    form = WeightFormat.parse("int4-block32")
    codes = quantize_tensors([Source()], form)
    matrix = PreparedMatrix.stored("a.weight", Source(), form, codes, "float32", tmp_path)
    assert np.array_equal(matrix.prepared(form, "float32").packed, codes.packed)
    with pytest.raises(ValueError, match=r"a\.weight was prepared as int4-block32"):
        matrix.prepared(WeightFormat.parse("int4-block64"), "float32")
    with pytest.raises(ValueError, match="positive bfloat16"):
        matrix.prepared(form, "positive bfloat16")
    assert PreparedMatrix("a", Source(), form).prepared(form, "float32") is None

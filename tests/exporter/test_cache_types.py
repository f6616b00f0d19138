"""How the keys and values of an exported decoder are kept: who decides, and what comes of it."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgewise.exporter import export, open_checkpoint
from edgewise.exporter.calibration.cache_steps import (
    HEADROOM,
    built_in_windows,
    with_cache_scales,
)
from edgewise.exporter.calibration.errors import CalibrationError
from edgewise.exporter.comparison import GATES
from edgewise.exporter.graph.numpy_builder import NumpyBuilder, NumpyCache
from edgewise.exporter.plan import PlanError
from edgewise.exporter.planning import make_plan
from edgewise.firmware_profiles import load_profile
from edgewise.runtime import GenerationOptions, load

BOARD = "raspberry_pi_5"
NAME = "llama_tinyllama_ratio"
END = 1  # the token that ends an answer


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({"recipe": "int4"}, "float16"),
        ({"recipe": "fp16"}, "float16"),
        ({"recipe": "fp32"}, "float32"),
        ({"recipe": "fp32", "cache_dtype": "float16"}, "float16"),
        ({"recipe": "int4", "cache_dtype": "float32"}, "float32"),
        ({"recipe": "int4", "cache_dtype": "int8"}, "int8"),
        ({"recipe": "int4", "profile": "x86_64"}, "float32"),
        ({"recipe": "int8", "runtime": "tflite"}, "float32"),
        ({"recipe": "int8", "runtime": "tflite", "cache_dtype": "int8"}, "int8"),
    ],
)
def test_the_profile_decides_unless_it_is_asked_or_nothing_may_be_lost(
    tiny_folder, settings, dtype
):
    settings = {"profile": BOARD} | settings
    with open_checkpoint(str(tiny_folder(NAME))) as checkpoint:
        plan = make_plan(checkpoint, load_profile(settings.pop("profile")), **settings)
    assert plan.cache_dtype == plan.cache.dtype == dtype


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache_dtype": "fp16"}, "'fp16' is unknown.*float16"),
        ({"cache_dtype": "float16", "runtime": "tflite"}, "'float16' leaves XNNPACK in tflite"),
        ({"cache_dtype": "int8", "runtime": "litertlm"}, "LiteRT-LM keeps float32"),
        (
            {"cache_dtype": "int8", "profile": "raspberry_pi_zero_2w"},
            "tflite-runtime has not been tried with int8",
        ),
    ],
)
def test_what_there_is_not_is_refused(tiny_folder, tmp_path, settings, message):
    with pytest.raises(PlanError, match=message):
        export(
            str(tiny_folder(NAME)), **{"profile": BOARD, "output": tmp_path / "bundle", **settings}
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("runtime", "dtype"), [("onnx", "float16"), ("onnx", "int8"), ("tflite", "int8")]
)
def test_a_bundle_is_verified_and_answers(tiny_folder, tmp_path, runtime, dtype):
    report = export(
        str(tiny_folder(NAME)),
        profile=BOARD,
        output=tmp_path / "bundle",
        runtime=runtime,
        recipe="fp16",
        cache_dtype=dtype,
        force=True,  # logits of a random model lie close together
    )
    manifest = report.bundle.manifest
    assert manifest.cache.dtype == dtype
    if runtime == "onnx":
        assert manifest.minimum_versions["onnxruntime"] == ("1.27" if dtype == "int8" else "1.23")
    assert report.verification.gate == GATES[16 if dtype == "float16" else 8]
    assert report.verification.mean_divergence < report.verification.gate.mean_divergence
    options = GenerationOptions(max_tokens=24, temperature=0.0, logit_bias={END: -100.0})
    with load(report.bundle.path, slots=2, threads=1) as model:
        first, second = (model.generate("abcdefgh " * 8, options) for _ in range(2))
        begun = model.generate("abcdefgh " * 8, dataclasses.replace(options, max_tokens=12))
    assert first.statistics.generated_tokens == 24
    assert first.text == second.text  # which takes what the first one left
    assert first.text.startswith(begun.text)


class Recording(NumpyCache):
    """Notes what is appended."""

    def __init__(self):
        super().__init__()
        self.appended = []

    def append(self, layer, keys, values):
        self.appended.append((keys, values))
        return super().append(layer, keys, values)


@pytest.mark.parametrize("name", [NAME, "phi_half_rotary", "gpt2_tied"])
def test_steps_are_those_of_the_largest_length_of_a_pair(tiny_folder, name):
    told, cache = [], Recording()
    with open_checkpoint(str(tiny_folder(name))) as checkpoint:
        plan = make_plan(checkpoint, load_profile(BOARD), recipe="int4", cache_dtype="int8")
        settled = with_cache_scales(checkpoint, plan, None, lambda *stage: told.append(stage))
        windows = built_in_windows(checkpoint.tokenizer, plan)
        plan.describe("forward", NumpyBuilder(windows, cache), checkpoint)
    layers = plan.cache.layers
    assert told == [("cache", done, layers) for done in range(layers + 1)]
    pairs = {NAME: plan.cache.head_size // 2, "phi_half_rotary": plan.cache.head_size // 4}.get(
        name, 0
    )
    for layer, (keys, values) in enumerate(cache.appended):
        rotated = np.abs(keys[..., :pairs] + 1j * keys[..., pairs : 2 * pairs])
        largest = np.concatenate([rotated, rotated, np.abs(keys[..., 2 * pairs :])], axis=-1)
        for steps, numbers in (
            (settled.cache_scales[layer].keys, largest),
            (settled.cache_scales[layer].values, np.abs(values)),
        ):
            expected = numbers.max(axis=(0, 2)) * HEADROOM / 127
            assert steps.shape == (plan.cache.key_value_heads, plan.cache.head_size)
            assert np.allclose(steps, expected, rtol=1e-5)


def test_a_short_text_is_refused(tiny_folder, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("too short")
    with pytest.raises(CalibrationError, match="at least 512"):
        export(
            str(tiny_folder(NAME)),
            profile=BOARD,
            output=tmp_path / "bundle",
            recipe="int4",
            cache_dtype="int8",
            calibrate=short,
        )


def test_steps_are_in_the_graph(tiny_folder, tmp_path):
    report = export(
        str(tiny_folder(NAME)),
        profile=BOARD,
        output=tmp_path / "bundle",
        recipe="int4",
        cache_dtype="int8",
        verification=False,
    )
    graph = onnx.load(report.bundle.file("graph"), load_external_data=False).graph
    steps = {
        item.name: numpy_helper.to_array(item)
        for item in graph.initializer
        if item.name.endswith("_step")
    }
    assert len(steps) == 2 * report.plan.cache.layers
    for layer, scales in report.plan.cache_scales.items():
        assert (steps[f"layers.{layer}/attention.key_step"][0, :, 0] == scales.keys).all()
        assert (steps[f"layers.{layer}/attention.value_step"][0, :, 0] == scales.values).all()

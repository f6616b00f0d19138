"""Whole exports of tiny checkpoints to TFLite: what comes out answers as the reference does."""

import pytest
from reference_model import greedy, reference

from edgewise.exporter import export, open_checkpoint
from edgewise.exporter.plan import PlanError
from edgewise.runtime import GenerationOptions, load, open_bundle

PROMPT = "Hello, who are you?"
TOKENS = 12
CLEAR_LEAD = 1e-3  # of a greedy choice; float32 rounding moves a logit by a hundredth of it


@pytest.mark.parametrize("name", ["llama_tied_wide_head", "llama_llama3_scaling", "qwen2_untied"])
@pytest.mark.parametrize("recipe", ["fp32", "fp16", "fp32,embedding=int8"])
def test_a_bundle_generates_what_the_reference_does(tiny_folder, tmp_path, name, recipe):
    folder = tiny_folder(name)
    report = export(
        str(folder),
        profile="android_arm64",
        output=tmp_path / "bundle",
        recipe=recipe,
        force=True,
    )
    bundle = open_bundle(report.bundle.path, verify_hashes=True)
    assert bundle.manifest.runtime == "tflite"
    assert bundle.manifest.recipe == recipe
    assert bundle.file("graph").name == "model.tflite"
    with load(bundle.path, threads=1) as model:
        prompt_ids = model.tokenizer.encode(PROMPT)
        answer = model.generate(PROMPT, GenerationOptions(max_tokens=TOKENS, raw=True))
    with open_checkpoint(str(folder)) as checkpoint:
        expected, lead = greedy(
            reference(checkpoint, recipe), prompt_ids, TOKENS, bundle.manifest.tokens.end
        )
    assert lead > CLEAR_LEAD
    assert list(answer.token_ids) == expected


@pytest.mark.parametrize("recipe", ["int8", "int4", None])
def test_integer_recipes_generate(tiny_folder, tmp_path, recipe):
    """Their tokens may differ from the reference's; how far is `verify`'s to measure."""
    report = export(
        str(tiny_folder("qwen2_untied")),
        profile="android_arm64",
        output=tmp_path / "bundle",
        recipe=recipe,
        force=True,
    )
    assert report.verification is not None
    assert report.verification.mean_divergence < 1
    with load(report.bundle.path, threads=1) as model:
        answer = model.generate(PROMPT, GenerationOptions(max_tokens=TOKENS, raw=True))
    assert len(answer.token_ids) == TOKENS or answer.finish_reason == "stop"


def test_the_context_may_be_shorter_than_the_smallest_graph(tiny_folder, tmp_path):
    report = export(
        str(tiny_folder("llama_tied_wide_head")),
        profile="x86_64",
        runtime="tflite",
        recipe="fp32",
        context_length=20,
        output=tmp_path / "bundle",
    )
    assert report.verification is not None
    assert report.verification.passed
    with load(report.bundle.path, threads=1) as model:
        answer = model.generate("Hi", GenerationOptions(max_tokens=40, raw=True))
        assert answer.finish_reason in ("length", "stop")


def test_a_bundle_is_replaced_together_with_its_packed_weights(tiny_folder, tmp_path):
    folder = str(tiny_folder("qwen2_tied"))
    for recipe in ("int8", "fp32"):
        export(
            folder, profile="android_arm64", output=tmp_path / "bundle", recipe=recipe, force=True
        )
        with load(tmp_path / "bundle", threads=1) as model:
            model.generate(PROMPT, GenerationOptions(max_tokens=2, raw=True))
        assert len(list((tmp_path / "bundle" / ".cache").iterdir())) == 1


def test_a_recipe_that_xnnpack_can_not_run_is_refused_before_anything_is_read(
    tiny_folder, tmp_path
):
    with pytest.raises(PlanError, match="XNNPACK refuses int8-block32"):
        export(
            str(tiny_folder("qwen2_tied")),
            profile="android_arm64",
            output=tmp_path / "bundle",
            recipe="int8-block32",
        )
    assert list(tmp_path.iterdir()) == []

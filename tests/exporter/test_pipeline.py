"""Whole exports of tiny checkpoints: what comes out answers as the reference does."""

import json
import re
import shutil

import onnx
import pytest
from bundle_files import change_json, places_of, tree
from reference_model import greedy, reference
from tiny_checkpoint import load_case

from edgewise.exporter import export, open_checkpoint
from edgewise.exporter.comparison import VerificationError
from edgewise.exporter.graph.onnx_weights import PAGE
from edgewise.runtime import GenerationOptions, load, open_bundle

BOARD = "raspberry_pi_5"
PROMPT = "Hello, who are you?"
TOKENS = 12
CLEAR_LEAD = 1e-3  # of a greedy choice; float32 rounding moves a logit by a hundredth of it


@pytest.mark.parametrize("name", ["llama_tied_wide_head", "llama_llama3_scaling", "qwen2_untied"])
@pytest.mark.parametrize(
    "recipe",
    [
        "fp32",
        "fp16",
        "keep",
        "int8-block32,activations=float32",
        "int4,activations=float32",
        "int4-block64-asymmetric,embedding=fp16,mlp=int8-block32,head=fp32,activations=float32",
    ],
)
def test_a_bundle_generates_what_the_reference_does(tiny_folder, tmp_path, name, recipe):
    folder = tiny_folder(name)
    report = export(
        str(folder),
        profile=BOARD,
        output=tmp_path / "bundle",
        recipe=recipe,
        cache_dtype="float32",
        force=True,
    )
    bundle = open_bundle(report.bundle.path, verify_hashes=True)
    assert bundle.manifest.recipe == recipe
    with load(bundle.path, threads=1, verify_hashes=True) as model:
        prompt_ids = model.tokenizer.encode(PROMPT)
        answer = model.generate(PROMPT, GenerationOptions(max_tokens=TOKENS, raw=True))
    with open_checkpoint(str(folder)) as checkpoint:
        expected, lead = greedy(
            reference(checkpoint, recipe), prompt_ids, TOKENS, bundle.manifest.tokens.end
        )
    assert lead > CLEAR_LEAD
    assert list(answer.token_ids) == expected


@pytest.mark.parametrize("recipe", ["int8", "int4", None])
def test_recipes_with_int8_activations_generate(tiny_folder, tmp_path, recipe):
    """Their tokens may differ from the reference's; how far is `verify`'s to measure."""
    report = export(
        str(tiny_folder("qwen2_untied")),
        profile=BOARD,
        output=tmp_path / "bundle",
        recipe=recipe,
        force=True,
    )
    assert report.plan.recipe.activations == "int8"
    with load(report.bundle.path, threads=1) as model:
        answer = model.generate(PROMPT, GenerationOptions(max_tokens=TOKENS, raw=True))
    assert len(answer.token_ids) == TOKENS or answer.finish_reason == "stop"


def test_messages_pass_through_the_checkpoints_template(bundle):
    messages = [{"role": "user", "content": "Hi"}]
    with load(bundle.path, threads=1) as model:
        by_template = model.generate(messages, GenerationOptions(max_tokens=4))
        by_hand = model.generate("user: Hi\nassistant: ", GenerationOptions(max_tokens=4, raw=True))
        by_text = model.generate("Hi", GenerationOptions(max_tokens=4))
    assert by_template.token_ids == by_hand.token_ids == by_text.token_ids


def test_a_checkpoint_without_a_template_gives_a_bundle_without_one(checkpoint, tmp_path):
    change_json(checkpoint / "tokenizer_config.json", chat_template=None)
    report = export(str(checkpoint), profile=BOARD, output=tmp_path / "bundle", recipe="fp32")
    assert report.bundle.manifest.chat is None
    assert not report.bundle.has("chat_template")
    assert "chat_template" not in json.loads(report.bundle.read_text("tokenizer_config"))
    with load(report.bundle.path, threads=1) as model:
        assert model.generate("Hi", GenerationOptions(max_tokens=2)).token_ids


def test_a_checkpoint_without_special_tokens_generates_to_the_limit(checkpoint, tmp_path):
    change_json(checkpoint / "config.json", eos_token_id=None, bos_token_id=None)
    (checkpoint / "tokenizer_config.json").write_text("{}")
    (checkpoint / "generation_config.json").unlink()
    report = export(str(checkpoint), profile=BOARD, output=tmp_path / "bundle", recipe="fp32")
    assert report.bundle.manifest.tokens.end == ()
    config = json.loads(report.bundle.read_text("genai_config"))
    assert not {name for name in config["model"] if name.endswith("token_id")}
    with load(report.bundle.path, threads=1) as model:
        answer = model.generate("Hi", GenerationOptions(max_tokens=40))
    assert (len(answer.token_ids), answer.finish_reason) == (40, "length")


@pytest.mark.parametrize("recipe", ["int4,head=int8", "int8", "keep"])
def test_two_exports_are_the_same_to_the_byte(tiny_folder, tmp_path, recipe):
    bundles = []
    for run in ("first", "second"):
        report = export(
            str(tiny_folder("qwen2_tied")),
            profile=BOARD,
            output=tmp_path / run,
            recipe=recipe,
            force=True,
        )
        bundles.append(tree(report.bundle.path))
    assert bundles[0] == bundles[1]


@pytest.mark.parametrize("recipe", ["fp32", "fp16", "keep"])
def test_plain_weights_take_float32_activations_whether_said_or_not(tiny_folder, tmp_path, recipe):
    trees = []
    for index, text in enumerate((recipe, f"{recipe},activations=float32")):
        report = export(
            str(tiny_folder("qwen2_tied")),
            profile=BOARD,
            output=tmp_path / str(index),
            recipe=text,
            verification=False,
        )
        assert report.bundle.manifest.recipe == recipe
        trees.append(tree(report.bundle.path))
    assert trees[0] == trees[1]


def test_progress_tells_every_stage_and_ends_at_all(tiny_folder, tmp_path):
    told: list[tuple[str, int, int]] = []
    export(
        str(tiny_folder("qwen2_untied")),
        profile=BOARD,
        output=tmp_path / "bundle",
        recipe="fp32",
        progress=lambda *step: told.append(step),
    )
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["export", "verify", "publish"]
    for stage in stages:
        done = [(done, total) for name, done, total in told if name == stage]
        assert done == sorted(done)
        assert done[-1][0] == done[-1][1]
    assert max(total for stage, _, total in told if stage == "export") == len(
        load_case("qwen2_untied").tensors()
    )


def test_a_failing_export_publishes_nothing_and_names_the_figures(tiny_folder, tmp_path):
    folder = tiny_folder("llama_tied_wide_head")
    with pytest.raises(VerificationError) as caught:
        export(str(folder), profile=BOARD, output=tmp_path / "bundle", recipe="int4")
    message = str(caught.value)
    assert re.search(r"recipe 'int4'.*top-1 agreement 0\.\d{3} \(at least 0\.650\)", message)
    assert re.search(r"mean KL 0\.\d+ nats \(at most 0\.6\)", message)
    assert "--recipe int8" in message
    assert "--force" in message
    assert list(tmp_path.iterdir()) == []


def test_a_failing_export_leaves_the_older_bundle(tiny_folder, bundle, tmp_path):
    older = tmp_path / "bundle"
    shutil.copytree(bundle.path, older)
    before = tree(older)
    with pytest.raises(VerificationError):
        export(str(tiny_folder("llama_tied_wide_head")), profile=BOARD, output=older, recipe="int4")
    assert tree(older) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_force_publishes_what_missed_the_gate_and_says_so(tiny_folder, tmp_path):
    report = export(
        str(tiny_folder("llama_tied_wide_head")),
        profile=BOARD,
        output=tmp_path / "bundle",
        recipe="int4",
        force=True,
    )
    figures = open_bundle(tmp_path / "bundle", verify_hashes=True).manifest.verification
    assert figures is not None
    assert figures["passed"] is False
    assert report.verification is not None
    assert figures == report.verification.as_manifest()


def test_without_verification_the_manifest_has_no_figures(tiny_folder, tmp_path):
    report = export(
        str(tiny_folder("llama_tied_wide_head")),
        profile=BOARD,
        output=tmp_path / "bundle",
        recipe="int4",
        verification=False,
    )
    assert report.verification is None
    assert report.bundle.manifest.verification is None


@pytest.mark.parametrize("context", [1, 2, 3, 32, 47, 128])
def test_a_context_shorter_than_the_texts_is_verified_within_it(tiny_folder, tmp_path, context):
    report = export(
        str(tiny_folder("qwen2_tied")),
        profile=BOARD,
        output=tmp_path / "bundle",
        recipe="fp32",
        context_length=context,
    )
    assert report.bundle.manifest.context_length == context
    assert report.verification is not None
    assert report.verification.passed


@pytest.mark.parametrize(
    "recipe", ["fp32", "fp16", "int8", "int4", "int8-block128,embedding=int4-block128"]
)
@pytest.mark.parametrize("name", ["qwen2_untied", "llama_tied_wide_head"])
def test_no_byte_of_the_weights_is_left_unread(tiny_folder, tmp_path, name, recipe):
    """Every tensor in the file is the input of a node, and no two overlap but for sharing."""
    report = export(
        str(tiny_folder(name)),
        profile=BOARD,
        output=tmp_path / "bundle",
        recipe=recipe,
        verification=False,
    )
    graph = onnx.load(str(report.bundle.file("graph")), load_external_data=False).graph
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read
    end = 0
    for start, stop in sorted(places_of(graph)):
        assert end <= start < end + PAGE  # nothing but padding between
        end = stop
    assert end == report.bundle.file("weights").stat().st_size

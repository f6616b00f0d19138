"""Whole exports of a tiny vision-language model: a bundle answers as the reference does."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_files import change_json, places_of, tree
from tiny_checkpoint import DATA
from tiny_images import CLIP_MEAN, CLIP_STD
from tiny_vision_language import TinyVisionLanguage

from edgewise.common.errors import EdgewiseError
from edgewise.exporter import export, open_checkpoint
from edgewise.exporter.comparison import GATES, VerificationError
from edgewise.exporter.forecast import forecast
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.numpy_image import NumpyImageBuilder
from edgewise.exporter.image_processing import ImageProcessingError, image_layout
from edgewise.exporter.plan import PlanError
from edgewise.exporter.planning import make_plan
from edgewise.exporter.targets import find_target
from edgewise.exporter.verify import gratings, verify
from edgewise.firmware_profiles import load_profile
from edgewise.runtime import GenerationOptions, VisionLanguageModel, load, open_bundle
from edgewise.runtime.backends.fake_bundle import byte_tokenizer
from edgewise.runtime.bundle import ImageLayout

BOARD = "raspberry_pi_5"
RUNTIMES = ("onnx", "tflite")
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
END = "<|endoftext|>"
VOCABULARY = 257  # of the tokenizer; rows of the embedding behind it are padding
TOKENS = 8
CLEAR_LEAD = 1e-4  # of a greedy choice; float32 rounding moves a logit by a hundredth of it


@pytest.fixture(scope="module")
def model():
    return TinyVisionLanguage("llava_phi")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """Write the folder, once: nobody may change it."""
    path = tmp_path_factory.mktemp("vision") / "tiny-llava-phi"
    return write_folder(model, path)


def write_folder(model, path):
    model.write(path)
    (path / "tokenizer.json").write_text(byte_tokenizer([END]).to_str())
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    return path


@pytest.fixture(scope="module")
def bundles(folder, tmp_path_factory):
    """Export with fp32 for both runtimes, once."""
    reports = {}
    for runtime in RUNTIMES:
        output = tmp_path_factory.mktemp("bundles") / runtime
        reports[runtime] = exported(folder, output, runtime)
    return reports


def exported(folder, output, runtime, recipe="fp32", **options):
    return export(
        str(folder), profile=BOARD, runtime=runtime, recipe=recipe, output=output, **options
    )


def features_of(model):
    builder = NumpyImageBuilder(model.pixels())
    model.see(builder)
    return builder.outputs["image_features"]


def greedy(model, prompt, features, count):
    """Return what the reference answers to a prompt of ids and marks, and the smallest lead."""
    table = model.arrays["model.embed_tokens.weight"]
    answer, leads = [], []
    for _ in range(count):
        builder = NumpyBuilder(model.spliced([*prompt, *answer], table, features))
        model.forward(builder)
        row = builder.logits[0, -1, :VOCABULARY]
        lesser, largest = np.sort(row)[-2:]
        leads.append(largest - lesser)
        answer.append(int(row.argmax()))
    return answer, min(leads)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_bundle_says_how_it_sees(bundles, model, runtime):
    report = bundles[runtime]
    assert report.verification is not None
    assert report.verification.passed
    assert report.verification.smallest_cosine > 1 - 1e-6
    manifest = open_bundle(report.bundle.path, verify_hashes=True).manifest
    assert (manifest.family, manifest.tasks) == ("vision_language", ("generate",))
    assert manifest.image == ImageLayout(42, CLIP_MEAN, CLIP_STD, "mean", tokens=9)
    assert manifest.vocabulary_size == model.configuration.vocabulary_size
    assert manifest.sampled_vocabulary == VOCABULARY
    assert manifest.cache.layers == model.configuration.text.layers
    assert not manifest.tokens.add_beginning
    assert manifest.parameters == sum(array.size for array in model.arrays.values())
    roles = {file.role for file in manifest.files}
    assert {"graph", "vision", "token_embedding", "tokenizer", "chat_template"} <= roles
    assert manifest.inputs[0] == {"onnx": "inputs_embeds", "tflite": "embeddings"}[runtime]
    assert (manifest.outputs, manifest.labels, manifest.source_length) == (("logits",), (), None)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("text", ["<image>why", "wh<image>y", "why<image>", "a<image>b<image>c"])
def test_an_answer_is_the_reference_s_own(bundles, model, runtime, text):
    images = model.images()[: text.count("<image>")]
    with load(bundles[runtime].bundle.path, threads=1) as loaded:
        assert isinstance(loaded, VisionLanguageModel)
        prompt = []
        for index, part in enumerate(text.split("<image>")):
            prompt += [-index] if index else []
            prompt += loaded.tokenizer.encode(part, add_beginning=False)
        expected, lead = greedy(model, prompt, features_of(model), TOKENS)
        assert lead > CLEAR_LEAD
        options = GenerationOptions(raw=True, temperature=0.0, max_tokens=TOKENS)
        generation = loaded.generate(text, options, images=images)
        assert list(generation.token_ids) == expected
        count = len(prompt) - len(images) + 9 * len(images)
        assert generation.statistics.prompt_tokens == count


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_turn_of_text_after_an_image_is_as_if_there_had_been_none(bundles, model, runtime):
    options = GenerationOptions(raw=True, temperature=0.0, max_tokens=TOKENS)
    with load(bundles[runtime].bundle.path, threads=1) as loaded:
        fresh = loaded.generate("what is it?", options).token_ids
        loaded.generate("<image>what is it?", options, images=model.images()[:1])
        assert loaded.generate("what is it?", options).token_ids == fresh


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_question_is_asked_as_the_model_was_trained(bundles, model, runtime):
    sample = open_bundle(bundles[runtime].bundle.path).manifest.chat
    question = sample.messages[0]["content"]
    assert sample.rendered == f"{SYSTEM}USER: {question} ASSISTANT:"
    with load(bundles[runtime].bundle.path, threads=1) as loaded:
        plain = loaded.count_tokens("why?")
        assert loaded.count_tokens("why?", images=["picture"]) == plain + len("\n") + 9
        text = f"{SYSTEM}USER: <image>\nwhy? ASSISTANT:"
        raw = GenerationOptions(raw=True, temperature=0.0, max_tokens=TOKENS)
        asked = GenerationOptions(temperature=0.0, max_tokens=TOKENS)
        images = model.images()[:1]
        written = loaded.generate(text, raw, images=images).token_ids
        assert loaded.generate("why?", asked, images=images).token_ids == written


def test_the_graphs_of_onnx_share_no_weight_and_leave_none_out(bundles, model):
    bundle = bundles["onnx"].bundle
    places = [
        places_of(onnx.load(str(bundle.file(role)), load_external_data=False).graph)
        for role in ("vision", "token_embedding", "graph")
    ]
    assert all(places)
    assert len(set().union(*places)) == sum(map(len, places))
    assert bundle.file("weights").stat().st_size > 4 * bundles["onnx"].plan.parameters * 0.99


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("recipe", ["fp16", "int8", "int4,head=int8,embedding=int8"])
def test_recipes_pass_their_gates(folder, tmp_path, runtime, recipe):
    report = exported(folder, tmp_path / "bundle", runtime, recipe, force=True)
    figures = report.verification
    print(
        f"{runtime} {recipe}: KL {figures.mean_divergence:.2e}, "
        f"cosine {figures.smallest_cosine:.4f}, top-1 {figures.top1_agreement:.2f}"
    )
    # Random weights have no clear favourites, so a few of 4 bits are others than the reference's.
    assert figures.passed or report.plan.gate_bits == 4
    assert figures.mean_divergence < 0.2
    assert figures.smallest_cosine > 0.95
    assert figures.gate == GATES[report.plan.gate_bits]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_two_exports_are_equal_to_the_byte(folder, tmp_path, runtime, bundles):
    again = exported(folder, tmp_path / "again", runtime)
    kept = {
        name: digest
        for name, digest in tree(bundles[runtime].bundle.path).items()
        if not name.startswith(".cache")
    }
    assert tree(again.bundle.path) == kept


@pytest.mark.parametrize("broken", ["see", "embed"])
def test_a_graph_that_is_broken_is_not_published(folder, tmp_path, monkeypatch, broken):
    from edgewise.runtime.backends.onnx_vision_language import OnnxVisionLanguageBackend

    whole = getattr(OnnxVisionLanguageBackend, broken)
    monkeypatch.setattr(
        OnnxVisionLanguageBackend, broken, lambda self, given: whole(self, given)[:, ::-1]
    )
    with pytest.raises(VerificationError, match="too far"):
        exported(folder, tmp_path / "bundle", "onnx")
    assert not (tmp_path / "bundle").exists()


def test_verification_needs_no_pillow_and_sees_different_images():
    images = gratings(42)
    assert images.shape == (2, 3, 42, 42)
    assert images.dtype == np.float32
    assert 1.4 < np.abs(images).max() < 1.6
    assert np.abs(images[0] - images[1]).mean() > 0.5


def test_a_small_context_is_verified_too(folder, tmp_path):
    report = exported(folder, tmp_path / "bundle", "onnx", context_length=20)
    assert report.verification.passed
    assert report.bundle.manifest.context_length == 20


# What is refused


@pytest.mark.parametrize("context", [1, 9])
def test_a_context_without_room_for_an_image_is_refused(folder, tmp_path, context):
    with pytest.raises(PlanError, match="an image takes 9 tokens"):
        exported(folder, tmp_path / "bundle", "onnx", context_length=context)


def test_a_litertlm_file_has_no_place_for_it(folder, tmp_path):
    with pytest.raises(PlanError, match="vision-language"):
        exported(folder, tmp_path / "bundle", "litertlm")


def test_a_missing_and_an_unknown_tensor_of_the_tower_are_named(model, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = write_folder(model, tmp_path / "tiny")
    arrays = load_file(folder / "model.safetensors")
    gone = "model.vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias"
    new = "model.vision_tower.vision_model.embeddings.other"
    arrays[new] = arrays.pop(gone)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(EdgewiseError) as error:
        exported(folder, tmp_path / "bundle", "onnx")
    assert gone in str(error.value)
    assert new in str(error.value)


def test_an_image_processor_of_another_kind_is_refused_before_anything_is_built(model, tmp_path):
    folder = write_folder(model, tmp_path / "tiny")
    change_json(folder / "preprocessor_config.json", resample=2)
    with pytest.raises(ImageProcessingError, match="resample is 2"):
        exported(folder, tmp_path / "bundle", "onnx")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"size": {"shortest_edge": 224}}, "size is 224, not the tower's 42"),
        ({"crop_size": 336}, "crop_size is 336"),
        ({"do_normalize": False}, "do_normalize is false"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std is"),
        ({"image_std": "0.5"}, "image_std is"),
    ],
)
def test_what_an_image_processor_may_not_ask_for(model, change, match):
    with pytest.raises(ImageProcessingError, match=match):
        image_layout(model.image_processor() | change, model.configuration.vision)


def test_an_image_processor_may_say_nothing_or_other_colours(model):
    vision = model.configuration.vision
    assert image_layout({}, vision) == model.layout
    half = image_layout({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, vision)
    assert (half.mean, half.std) == ((0.5,) * 3, (0.5,) * 3)


def test_a_loaded_graph_is_held_against_the_reference_by_hand(folder, bundles):
    report = bundles["onnx"]
    target = find_target("onnx")
    backend = target.load(report.bundle, threads=1, capacity=48)
    with open_checkpoint(str(folder)) as checkpoint:
        plan = make_plan(checkpoint, load_profile(BOARD), runtime="onnx", recipe="fp32")
        figures = verify(checkpoint, plan, backend, report.bundle.manifest)
    assert figures == report.verification
    # 4 texts of the decoder from their middle on, and 2 around images.
    assert figures.positions > 4 * 24
    backend.close()


def test_memory_counts_the_tower_by_its_image_and_contexts_that_hold_one():
    config = json.loads((DATA / "configs" / "llava-phi.json").read_text())
    small, large = (
        forecast(config, load_profile(BOARD), context_length=length) for length in (600, 2048)
    )
    assert small.budget.working_tokens == large.budget.working_tokens == 577
    assert small.budget.working_bytes == large.budget.working_bytes
    scores, of_a_token = 3 * 16 * 577, 8 * 1024 + 3 * 4096
    assert small.budget.working_bytes == 4 * 577 * (scores + of_a_token)
    assert large.budget.cache_bytes_per_token == 2 * 32 * 2560 * 2  # float16
    crowded = forecast(config, load_profile("raspberry_pi_4"))
    contexts = [int(found) for found in re.findall(r"context of (\d+)", "; ".join(crowded.advice))]
    assert all(context > 577 for context in contexts)
    with pytest.raises(PlanError, match="an image takes 576 tokens"):
        forecast(config, load_profile(BOARD), context_length=576)


def test_the_folder_is_untouched(folder, model):
    assert Path(folder / "config.json").read_text() == json.dumps(model.config)

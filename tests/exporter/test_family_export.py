"""Whole exports of tiny encoders and encoder-decoders: a bundle answers as the reference does."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_files import change_json, tree
from tiny_families import ENCODER_DECODERS, ENCODERS, TinyEncoder, TinyEncoderDecoder
from tiny_family_folders import write_family_folder

from edgewise.exporter import export, open_checkpoint
from edgewise.exporter.comparison import GATES, VerificationError
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.numpy_encoder import NumpyEncoderBuilder
from edgewise.exporter.plan import PlanError
from edgewise.exporter.targets import find_target
from edgewise.firmware_profiles import load_profile
from edgewise.runtime import GenerationOptions, load, open_bundle
from edgewise.runtime.tokenizer import Tokenizer

BOARD = "raspberry_pi_5"
RUNTIMES = ("onnx", "tflite")
TEXTS = ["the vents were open", "is it cold in here? close them", "no"]
PAIR = ("it is cold", "close the vents")
TASKS = {
    "features": ("embed",),
    "masked_language_model": ("fill-mask", "embed"),
    "classification": ("classify",),
    "token_classification": ("token-classify",),
}
TOKENS = 12
CLEAR_LEAD = 1e-4  # of a greedy choice; float32 rounding moves a logit by a hundredth of it


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write the folder of a case, once a session: nobody may change it."""
    written: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in written:
            path = tmp_path_factory.mktemp("family") / name
            written[name] = write_family_folder(model_of(name), path)
        return written[name]

    return folder


def model_of(name):
    return TinyEncoder(name) if name in ENCODERS else TinyEncoderDecoder(name)


def exported(folder, output, runtime, recipe="fp32", **options):
    return export(
        str(folder), profile=BOARD, runtime=runtime, recipe=recipe, output=output, **options
    )


def framed(bundle, first, second=None):
    """Give ids and types of a text or a pair, as the checkpoint's own tokenizer frames it."""
    import tokenizers

    inner = tokenizers.Tokenizer.from_file(str(bundle.file("tokenizer")))
    encoding = inner.encode(first) if second is None else inner.encode(first, second)
    return encoding.ids, encoding.type_ids


def reference(model, ids, types):
    builder = NumpyEncoderBuilder(np.asarray([ids]), None, np.asarray([types]))
    model.forward(builder)
    return {name: array[0] for name, array in builder.outputs.items()}


def probabilities(logits):
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


# Encoders


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_encoder_answers_as_the_reference_does(family_folder, tmp_path, name, runtime):
    model = model_of(name)
    report = exported(family_folder(name), tmp_path / "bundle", runtime)
    assert report.verification is not None
    assert report.verification.passed
    bundle = open_bundle(report.bundle.path, verify_hashes=True)
    manifest = bundle.manifest
    head = model.configuration.head
    assert (manifest.family, manifest.tasks) == ("encoder", TASKS[head])
    assert (manifest.cache, manifest.source_length, manifest.chat) == (None, None, None)
    assert manifest.context_length == model.configuration.context_length
    assert manifest.labels == model.configuration.labels
    texts = [framed(bundle, text) for text in TEXTS] + [framed(bundle, *PAIR)]
    expected = [reference(model, *text) for text in texts]
    with load(bundle.path, threads=1) as loaded:
        if "embed" in manifest.tasks:
            vectors = loaded.embed([*TEXTS, PAIR], normalize=False)
            wanted = np.stack([results["mean"][0] for results in expected])
            assert np.abs(vectors - wanted).max() < 1e-4
        if "classify" in manifest.tasks:
            for answer, results in zip(loaded.classify([*TEXTS, PAIR]), expected, strict=True):
                chances = dict(
                    zip(manifest.labels, probabilities(results["logits"][0]), strict=True)
                )
                assert answer == pytest.approx(chances, abs=1e-5)
                assert list(answer) == sorted(chances, key=chances.get, reverse=True)
        if "fill-mask" in manifest.tasks:
            text = f"close {loaded.mask_text} vents"
            ids, types = framed(bundle, text)
            chances = probabilities(
                reference(model, ids, types)["logits"][ids.index(manifest.tokens.mask)]
            )
            (guesses,) = loaded.fill_mask(text, count=3)
            assert [guess.probability for guess in guesses] == pytest.approx(
                np.sort(chances)[::-1][:3], rel=1e-3
            )
            assert guesses[0].token_id == chances.argmax()


def test_the_first_token_makes_the_vector_where_the_checkpoint_says_so(family_folder, tmp_path):
    folder = tmp_path / "sentences"
    write_family_folder(model_of("bert_features"), folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    for runtime in RUNTIMES:
        report = exported(folder, tmp_path / runtime, runtime)
        assert report.bundle.manifest.pooling == "first"
        ids, types = framed(report.bundle, TEXTS[0])
        states = reference(model_of("bert_features"), ids, types)["hidden_states"]
        with load(report.bundle.path, threads=1) as loaded:
            vector = loaded.embed([TEXTS[0]], normalize=False)[0]
        assert np.abs(vector - states[0]).max() < 1e-4


def test_the_manifest_says_what_the_graph_of_an_encoder_takes(family_folder, tmp_path):
    two_types = exported(family_folder("bert_features"), tmp_path / "bert", "onnx").bundle
    assert two_types.manifest.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert two_types.manifest.outputs == ("hidden_states", "mean")
    tokens = two_types.manifest.tokens
    assert (tokens.beginning, tokens.separator, tokens.mask) == (2, 3, 4)
    assert (tokens.separators_between, tokens.start) == (1, None)
    one_type = exported(family_folder("roberta_features"), tmp_path / "roberta", "tflite").bundle
    assert one_type.manifest.inputs == ("token_ids", "token_count")
    assert one_type.manifest.tokens.separators_between == 2
    for bundle in (two_types, one_type):
        graph_inputs = {"onnx": onnx_inputs, "tflite": tflite_inputs}[bundle.manifest.runtime]
        assert set(bundle.manifest.inputs) == graph_inputs(bundle.file("graph"))
        assert {file.role for file in bundle.manifest.files} == {
            "graph",
            "tokenizer",
            "tokenizer_config",
            *(("weights",) if bundle.manifest.runtime == "onnx" else ()),
        }


def onnx_inputs(path):
    graph = onnx.load(path, load_external_data=False).graph
    optional = {item.name for item in graph.initializer}
    return {item.name for item in graph.input} - optional


def tflite_inputs(path):
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(str(path)).get_signature_list()
    return set(next(iter(signatures.values()))["inputs"])


def test_labels_of_the_checkpoint_reach_the_bundle(tmp_path):
    model = TinyEncoder(
        "bert_classification", changes={"id2label": {"0": "cold", "1": "warm", "2": "hot"}}
    )
    report = exported(write_family_folder(model, tmp_path / "labels"), tmp_path / "bundle", "onnx")
    assert report.bundle.manifest.labels == ("cold", "warm", "hot")


def test_a_shorter_context_shortens_the_texts(family_folder, tmp_path):
    for runtime in RUNTIMES:
        report = exported(
            family_folder("bert_features"), tmp_path / runtime, runtime, context_length=20
        )
        assert report.bundle.manifest.context_length == 20
        with load(report.bundle.path, threads=1) as loaded:
            assert loaded.context_length == 20
            assert len(loaded.embed(["a b c"])) == 1


# Encoder-decoders


@pytest.mark.parametrize("name", ENCODER_DECODERS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_encoder_decoder_answers_as_the_reference_does(family_folder, tmp_path, name, runtime):
    model = model_of(name)
    report = exported(family_folder(name), tmp_path / "bundle", runtime, context_length=40)
    assert report.verification is not None
    assert report.verification.passed
    bundle = open_bundle(report.bundle.path, verify_hashes=True)
    manifest = bundle.manifest
    assert (manifest.family, manifest.tasks) == ("encoder_decoder", ("generate",))
    assert (manifest.source_length, manifest.context_length) == (40, 40)
    assert manifest.cache is not None
    assert manifest.cache.layers == model.configuration.decoder_layers
    assert manifest.tokens.start == model.configuration.start_token_id
    source = [*Tokenizer.open(bundle).encode(TEXTS[1]), manifest.tokens.end[0]]
    with load(bundle.path, threads=1) as loaded:
        answer = loaded.generate(TEXTS[1], GenerationOptions(max_tokens=TOKENS))
    expected, lead = greedy(model, manifest, source)
    assert lead > CLEAR_LEAD
    assert list(answer.token_ids) == expected


def greedy(model, manifest, source):
    """Decode as plainly as can be: every step runs all again, without a cache."""
    encoder = NumpyEncoderBuilder(np.asarray([source]))
    model.encode(encoder)
    ids, leads = [manifest.tokens.start], []
    while len(ids) <= TOKENS:
        decoder = NumpyBuilder(np.asarray([ids]), encoder=encoder.states)
        model.decode(decoder)
        row = decoder.logits[0, -1, : manifest.sampled_vocabulary]
        second, best = np.partition(row, -2)[-2:]
        forced = manifest.tokens.forced_first if len(ids) == 1 else None
        if len(ids) == TOKENS and manifest.tokens.forced_last is not None:
            forced = manifest.tokens.forced_last
        leads.append(best - second if forced is None else np.inf)
        ids.append(int(row.argmax()) if forced is None else forced)
        if ids[-1] in manifest.tokens.end:
            break
    return ids[1:], min(leads)


def test_words_that_tell_a_t5_its_task_are_kept_by_the_tasks_name(family_folder, tmp_path):
    folder = shutil.copytree(family_folder("t5_v1_0"), tmp_path / "checkpoint")
    change_json(
        folder / "config.json",
        task_specific_params={
            "summarization": {"num_beams": 4, "prefix": "summarize: "},
            "translation_en_to_de": {"prefix": "translate English to German: "},
            "without": {"num_beams": 4},
            "Not A Name": {"prefix": "x"},
            "generate": {"prefix": "x"},
            "long": {"prefix": "x" * 201},
            "odd": ["x"],
        },
    )
    bundle = exported(folder, tmp_path / "bundle", "tflite", verification=False).bundle
    assert bundle.manifest.prefixes == {
        "summarization": "summarize: ",
        "translation-en-to-de": "translate English to German: ",
    }


def test_both_graphs_read_one_weights_file_and_share_the_embedding(family_folder, tmp_path):
    bundle = exported(family_folder("t5_v1_1"), tmp_path / "bundle", "onnx").bundle
    assert {file.role: file.path for file in bundle.manifest.files}.items() >= {
        "encoder": "encoder.onnx",
        "graph": "decoder.onnx",
        "weights": "model.onnx.data",
    }.items()
    places = []
    for role in ("encoder", "graph"):
        graph = onnx.load(bundle.file(role), load_external_data=False).graph
        stored = [tensor for tensor in graph.initializer if tensor.external_data]
        assert {entry.value for tensor in stored for entry in tensor.external_data[:1]} == {
            "model.onnx.data"
        }
        places.append(
            {
                tensor.name: [(entry.key, entry.value) for entry in tensor.external_data]
                for tensor in stored
                if tensor.name.startswith("shared")
            }
        )
    assert places[0]
    assert places[0] == places[1]
    parameters = sum(array.size for array in model_of("t5_v1_1").arrays.values())
    assert bundle.manifest.parameters == parameters
    # Nothing of size is written twice: only what fills up pages comes on top.
    assert bundle.file("weights").stat().st_size < 4 * parameters + 4096 * 60


def test_the_manifest_says_what_the_graph_of_a_decoder_takes(family_folder, tmp_path):
    for runtime, graph_inputs in (("onnx", onnx_inputs), ("tflite", decoder_inputs)):
        bundle = exported(family_folder("t5_v1_0"), tmp_path / runtime, runtime).bundle
        manifest = bundle.manifest
        assert manifest.cache is not None
        cache = {
            name.format(layer=layer)
            for name in (manifest.cache.past_key_name, manifest.cache.past_value_name)
            for layer in range(manifest.cache.layers)
        }
        assert {*manifest.inputs, *cache} == graph_inputs(bundle.file("graph"))
        assert manifest.outputs == ("logits",)


def decoder_inputs(path):
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(str(path)).get_signature_list()
    return set(signatures["prefill_32_64"]["inputs"])


def test_what_every_answer_has_is_read_of_either_configuration(tmp_path):
    folder = write_family_folder(model_of("bart_scaled"), tmp_path / "bart")
    by_config = exported(folder, tmp_path / "one", "onnx").bundle.manifest.tokens
    assert (by_config.forced_first, by_config.forced_last) == (0, 2)
    (folder / "generation_config.json").write_text(
        json.dumps({"forced_bos_token_id": 7, "forced_eos_token_id": None})
    )
    by_generation = exported(folder, tmp_path / "two", "onnx").bundle.manifest.tokens
    assert (by_generation.forced_first, by_generation.forced_last) == (7, None)
    assert by_generation.start == by_config.start


def test_rows_without_a_token_are_never_an_answer(family_folder, tmp_path):
    """The embedding of a T5 is longer than its vocabulary."""
    bundle = exported(family_folder("t5_v1_0"), tmp_path / "bundle", "onnx").bundle
    assert (bundle.manifest.vocabulary_size, bundle.manifest.sampled_vocabulary) == (300, 296)


# Decoders that score


@pytest.mark.parametrize("name", ["phi_score", "llama_score"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_scoring_decoder_gives_a_number_for_each_label(tiny_folder, tmp_path, name, runtime):
    report = exported(tiny_folder(name), tmp_path / "bundle", runtime)
    assert report.verification is not None
    assert report.verification.passed
    manifest = report.bundle.manifest
    assert (manifest.family, manifest.tasks) == ("decoder", ("score",))
    assert manifest.labels == report.plan.labels
    assert not report.bundle.has("genai_config")
    backend = find_target(runtime).load(report.bundle, threads=1, capacity=32)
    ids = np.asarray([[5, 60, 7, 80]])
    scores = backend.step(0, ids, np.zeros(1, np.int32))
    with open_checkpoint(str(tiny_folder(name))) as checkpoint:
        builder = NumpyBuilder(ids, last_positions=1)
        report.plan.describe("forward", builder, checkpoint)
    backend.close()
    assert scores.shape == (1, len(manifest.labels))
    assert np.abs(scores - builder.logits[:, 0]).max() < 1e-4


def test_litert_lm_has_no_place_for_scores(tiny_folder, tmp_path):
    with pytest.raises(PlanError, match="of the kind decoder that scores"):
        exported(tiny_folder("phi_score"), tmp_path / "bundle", "litertlm")


# Recipes

ONNX_RECIPES = (
    "fp16",
    "int8",
    "int8-block32",
    "int8-block64,activations=float32",
    "int4",
    "int4-block64-asymmetric",
    "int4,embedding=int8-block32,head=int8-block32",
    "fp32,embedding=int8",
)
TFLITE_RECIPES = ("fp16", "int8", "int4", "int8,mlp=int4-block32", "fp32,embedding=int8")
# What random weights of a few numbers a row reach by the fewest bits: the least cosine, and the
# largest mean divergence in nats. Trained models are held to GATES, which are stricter.
BOUNDS = {16: (0.99999, 1e-4), 8: (0.999, 0.04), 4: (0.85, 1.2)}
RECIPES = (
    *(("bert_masked_language_model", "onnx", recipe) for recipe in ONNX_RECIPES),
    *(("bert_masked_language_model", "tflite", recipe) for recipe in TFLITE_RECIPES),
    ("distilbert_classification", "onnx", "int8"),
    ("distilbert_classification", "tflite", "int8"),
    ("t5_ul2", "onnx", "int8-block32"),
    ("t5_ul2", "onnx", "int4"),
    ("t5_ul2", "tflite", "fp16"),
    ("t5_ul2", "tflite", "int8,mlp=int4-block32"),
)


@pytest.mark.parametrize(("name", "runtime", "recipe"), RECIPES)
def test_every_recipe_stays_within_its_bounds(family_folder, tmp_path, name, runtime, recipe):
    report = exported(family_folder(name), tmp_path / "bundle", runtime, recipe, force=True)
    figures = report.verification
    assert figures is not None
    cosine, divergence = BOUNDS[report.plan.gate_bits]
    assert figures.gate == GATES[report.plan.gate_bits]
    if figures.smallest_cosine is not None:
        assert figures.smallest_cosine > cosine
    assert figures.mean_divergence is not None
    assert figures.mean_divergence < divergence
    assert open_bundle(report.bundle.path).manifest.recipe == recipe


BOARDS = ["raspberry_pi_3", "raspberry_pi_4", "raspberry_pi_5", "android_arm64", "x86_64"]


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("name", ["roberta_features", "t5_v1_0"])
def test_every_boards_own_choice_answers(family_folder, tmp_path, board, name):
    report = export(str(family_folder(name)), profile=board, output=tmp_path / "bundle", force=True)
    manifest = report.bundle.manifest
    assert manifest.profile == board
    own = load_profile(board).recipe
    if manifest.family == "encoder" and any("int4" in text for text in own.formats.values()):
        assert manifest.recipe == "int8"
    else:
        assert manifest.recipe == str(own)
    with load(report.bundle.path, threads=1) as loaded:
        if manifest.family == "encoder":
            assert np.isfinite(loaded.embed(TEXTS)).all()
        else:
            answer = loaded.generate(TEXTS[0], GenerationOptions(max_tokens=4))
            assert len(answer.token_ids) == 4 or answer.finish_reason == "stop"


def test_two_exports_are_the_same_to_the_byte(family_folder, tmp_path):
    for runtime in RUNTIMES:
        trees = []
        for run in ("first", "second"):
            folder = tmp_path / f"{runtime}-{run}"
            exported(family_folder("t5_v1_0"), folder, runtime, "int8", force=True)
            trees.append(tree(folder))
        assert trees[0] == trees[1]


# Refusals


def test_a_failing_export_publishes_nothing_and_names_every_figure(family_folder, tmp_path):
    with pytest.raises(VerificationError) as caught:
        exported(
            family_folder("distilbert_masked_language_model"),
            tmp_path / "bundle",
            "onnx",
            "int4-block64",
        )
    message = str(caught.value)
    assert "(at least 0.650), mean KL" in message
    assert re.search(r"smallest cosine 0\.\d{4} \(at least 0\.9000\)", message)
    assert "--recipe int8" in message
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("name", "kind"), [("bert_features", "encoder"), ("t5_v1_0", "encoder-decoder")]
)
def test_litert_lm_has_no_place_for_other_families(family_folder, tmp_path, name, kind):
    with pytest.raises(PlanError, match=f"of the kind {kind}.*Use --format tflite or onnx"):
        exported(family_folder(name), tmp_path / "bundle", "litertlm")


def test_a_tokenizer_that_frames_no_text_is_no_encoders(tmp_path):
    folder = write_family_folder(model_of("bert_features"), tmp_path / "bare")
    change_json(folder / "tokenizer.json", post_processor=None)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(Exception, match=r"needs tokens\.beginning and tokens\.separator"):
        exported(folder, tmp_path / "bundle", "onnx")


def test_a_t5_without_an_end_token_can_not_be_read(tmp_path):
    model = TinyEncoderDecoder("t5_v1_0", changes={"eos_token_id": None})
    folder = write_family_folder(model, tmp_path / "endless")
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(Exception, match=r"needs tokens\.start and tokens\.end"):
        exported(folder, tmp_path / "bundle", "onnx")

"""Encoders as ONNX and TFLite graphs, against transformers and over quantized weights."""

import numpy as np
import pytest
from family_graphs import RUNTIMES, build, open_encoder
from tflite_partitions import outside_of_partitions
from tiny_families import ENCODERS, TinyEncoder, on_the_left

from edgewise.exporter.graph.numpy_encoder import NumpyEncoderBuilder
from edgewise.exporter.graph.tflite_encoder import TfliteEncoderBuilder, encoder_lengths
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_weights import SCALES, WeightStore
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.runtime.backends.litert_encoder import LitertEncoderBackend
from edgewise.runtime.backends.onnx_encoder import OnnxEncoderBackend
from edgewise.runtime.backends.protocol import BackendError
from edgewise.runtime.sessions.encoder import EncoderSession, EncoderTokens

TOLERANCE = 1e-4
# Largest relative error of the results by int8 activations, measured at 0.11 and below.
ACTIVATION_ERROR = 0.15


def results_of(runtime, model, folder, recipe="fp32"):
    build(runtime, model, folder, recipe)
    return open_encoder(runtime, folder).encode(model.ids, model.counts, model.types)


def rows_of(model, array, expected):
    """Give both as [B, T or 1, N] and which rows of them are real."""
    actual = array.reshape(len(array), -1, expected.shape[-1])
    mask = model.mask > 0 if actual.shape[1] > 1 else np.ones((len(array), 1), bool)
    return actual[mask], expected.reshape(actual.shape)[mask]


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_padded_rows_equal_transformers(tmp_path, runtime, name):
    model = TinyEncoder(name)
    results = results_of(runtime, model, tmp_path)
    for part, expected in model.expected().items():
        actual, wanted = rows_of(model, results[part], expected)
        assert np.abs(actual - wanted).max() < TOLERANCE


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_rows_padded_on_either_side_are_the_same(tmp_path, runtime, name):
    model = TinyEncoder(name)
    build(runtime, model, tmp_path)
    tokens = EncoderTokens(beginning=0, separator=1)
    encoder = EncoderSession(open_encoder(runtime, tmp_path), None, tokens)
    right = encoder.encode(model.ids, model.mask, model.types)
    left_mask = on_the_left(model.mask, model.mask)
    left = encoder.encode(
        on_the_left(model.ids, model.mask, fill=7),
        left_mask,
        on_the_left(model.types, model.mask, fill=1),
    )
    for part, expected in model.expected().items():
        actual, wanted = rows_of(model, right[part], expected)
        assert np.abs(actual - wanted).max() < TOLERANCE
        moved = right[part]
        if moved.shape[1] > 1:
            assert not left[part][left_mask == 0].any()
            moved = on_the_left(moved, model.mask)
        assert np.abs(left[part] - moved).max() < 1e-6
    count = model.counts[1]
    alone = encoder.encode(model.ids[1:, :count], None, model.types[1:, :count])
    for part, values in alone.items():
        assert np.abs(left[part][1, -values.shape[1] :] - values[0]).max() < TOLERANCE


@pytest.mark.parametrize("name", [name for name in ENCODERS if "language" in name])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_best_guesses_are_those_of_transformers(tmp_path, runtime, name):
    model = TinyEncoder(name)
    best = np.argsort(-results_of(runtime, model, tmp_path)["logits"], axis=-1)[..., :5]
    logits = model.expected()["logits"]
    expected = np.argsort(-logits, axis=-1)[..., :6]
    ranked = np.take_along_axis(logits, expected, axis=-1)
    is_clear = (np.diff(ranked, axis=-1) < -1e-3).all(axis=-1) & (model.mask > 0)
    assert is_clear.sum() > 20
    assert np.array_equal(best[is_clear], expected[is_clear, :5])


LONG_ROBERTA = {"max_position_embeddings": 514, "num_hidden_layers": 1}


def test_onnx_reads_512_tokens_of_514_positions_and_refuses_513(tmp_path):
    model = TinyEncoder("roberta_features", changes=LONG_ROBERTA)
    build("onnx", model, tmp_path)
    context = model.configuration.context_length
    backend = OnnxEncoderBackend(tmp_path / "encoder.onnx", threads=1, capacity=context)
    check_the_longest_text(model, backend)


def test_tflite_reads_512_tokens_of_514_positions_and_refuses_513(tmp_path):
    model = TinyEncoder("roberta_features", changes=LONG_ROBERTA)
    file = TfliteFile()
    length = encoder_lengths(model.configuration.context_length)[-1]
    builder = TfliteEncoderBuilder(file, WeightStore(file, Recipe.parse("fp32")), length)
    model.forward(builder)
    builder.finish()
    file.write(tmp_path / "model.tflite")
    check_the_longest_text(model, LitertEncoderBackend(tmp_path / "model.tflite", threads=1))


def check_the_longest_text(model, backend):
    assert backend.capacity == 512
    ids = np.random.default_rng(3).integers(5, 300, (1, 513))
    results = backend.encode(ids[:, :512], np.asarray([512], np.int32))
    whole = NumpyEncoderBuilder(ids[:, :512])
    model.forward(whole)
    difference = results["hidden_states"][0] - whole.outputs["hidden_states"][0]
    assert np.abs(difference).max() < TOLERANCE
    with pytest.raises(BackendError, match=r"513 tokens were given.*at most 512"):
        backend.encode(ids, np.asarray([513], np.int32))


def reference(model):
    builder = NumpyEncoderBuilder(model.ids, model.mask, model.types)
    model.forward(builder)
    return builder.outputs


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(
    ("runtime", "recipe"),
    [
        ("onnx", "fp16"),
        ("tflite", "fp16"),
        ("onnx", "int4-block32,activations=float32"),
        ("onnx", "int8-block32,activations=float32"),
        ("onnx", "fp32,embedding=int8"),
        ("tflite", "fp32,embedding=int4-block32"),
    ],
)
def test_stored_weights_are_computed_with_exactly(tmp_path, runtime, name, recipe):
    model = TinyEncoder(name)
    results = results_of(runtime, model, tmp_path, recipe)
    scales = SCALES if runtime == "tflite" else "float32"
    for part, expected in reference(TinyEncoder(name, recipe, scales)).items():
        actual, wanted = rows_of(model, results[part], expected)
        assert np.abs(actual - wanted).max() < TOLERANCE


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("recipe", ["int8", "int4-block32", "int8,mlp=int4-block32"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_int8_activations_stay_near_the_stored_weights(tmp_path, runtime, name, recipe):
    model = TinyEncoder(name)
    results = results_of(runtime, model, tmp_path, recipe)
    scales = SCALES if runtime == "tflite" else "float32"
    for part, expected in reference(TinyEncoder(name, recipe, scales)).items():
        actual, wanted = rows_of(model, results[part], expected)
        error = np.linalg.norm(actual - wanted) / np.linalg.norm(wanted)
        print(f"{name} {runtime} {recipe} {part}: {error:.2g}")
        assert error < ACTIVATION_ERROR


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("recipe", ["fp32", "int8", "int4"])
def test_xnnpack_runs_all_but_look_ups_and_casts_in_one_partition(tmp_path, name, recipe):
    file = TfliteFile()
    builder = TfliteEncoderBuilder(file, WeightStore(file, Recipe.parse(recipe)), 16)
    TinyEncoder(name).forward(builder)
    builder.finish()
    file.write(tmp_path / "model.tflite")
    partitions, outside = outside_of_partitions(tmp_path / "model.tflite")
    assert partitions == 1
    configuration = TinyEncoder(name).configuration
    casts = 1 if configuration.labels else 2  # the count, for the mask and for the mean
    look_ups = 3 if configuration.token_types > 1 else 2
    look_ups += recipe == "int8"  # the scales of the vocabulary's rows
    assert outside == ["CAST"] * casts + ["EMBEDDING_LOOKUP"] * look_ups


@pytest.mark.parametrize(
    ("context", "lengths"),
    [(16, (16,)), (32, (32,)), (48, (32, 48)), (512, (32, 128, 512)), (2048, (32, 128, 512, 2048))],
)
def test_lengths_end_at_the_context(context, lengths):
    assert encoder_lengths(context) == lengths

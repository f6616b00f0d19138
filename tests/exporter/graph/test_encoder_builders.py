"""Encoders as ONNX and TFLite graphs, against transformers and over quantized weights."""

import numpy as np
import pytest
from family_graphs import RUNTIMES, build, open_encoder
from tflite_partitions import outside_of_partitions
from tiny_families import ENCODERS, TinyEncoder

from edgewise.exporter.graph.numpy_encoder import NumpyEncoderBuilder
from edgewise.exporter.graph.tflite_encoder import TfliteEncoderBuilder, encoder_lengths
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_weights import SCALES, WeightStore
from edgewise.exporter.quantize.recipes import Recipe

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
        assert error < ACTIVATION_ERROR, (part, error)


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
    casts = 2 if name == "bert_features" else 1  # the count, for the mask and for the mean
    assert outside == ["CAST"] * casts + ["EMBEDDING_LOOKUP"] * 3


@pytest.mark.parametrize(
    ("context", "lengths"),
    [(16, (16,)), (32, (32,)), (48, (32, 48)), (512, (32, 128, 512)), (2048, (32, 128, 512, 2048))],
)
def test_lengths_end_at_the_context(context, lengths):
    assert encoder_lengths(context) == lengths

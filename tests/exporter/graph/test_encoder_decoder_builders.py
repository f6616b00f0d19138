"""Encoder-decoders as ONNX and TFLite graphs, against transformers and over quantized weights."""

import numpy as np
import pytest
from family_graphs import CONTEXT, DECODER_GRAPHS, ENCODER_LENGTHS, RUNTIMES, open_runner
from tflite_partitions import outside_of_partitions
from tiny_families import ENCODER_DECODERS, TinyEncoderDecoder

from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.numpy_encoder import NumpyEncoderBuilder
from edgewise.exporter.graph.tflite_builder import TfliteBuilder
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_weights import SCALES, WeightStore
from edgewise.exporter.quantize.recipes import Recipe

TOLERANCE = 1e-4
# Largest relative error of the results by int8 activations.
ACTIVATION_ERROR = 0.15


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request):
    return request.param


@pytest.fixture(scope="module", params=ENCODER_DECODERS)
def opened(request, runtime, tmp_path_factory):
    """A case, its fp32 graphs, what they give for the sources, and what transformers computes."""
    model = TinyEncoderDecoder(request.param)
    runner = open_runner(runtime, model, tmp_path_factory.mktemp(request.param))
    return model, runner, runner.encode(model.ids, model.mask), model.expected()


def cross_mask(model, encoded):
    """Fit the mask to the tokens that the cross keys have, padding included."""
    return np.pad(model.mask, ((0, 0), (0, cross_length(encoded) - model.mask.shape[1])))


def cross_length(encoded):
    return next(array.shape[2] for name, array in encoded.items() if name.startswith("cross"))


def steps(model, runner, encoded, sizes):
    """Feed the targets in chunks; give each chunk's last logits with its position."""
    runner.restart()
    at, mask = 0, cross_mask(model, encoded)
    for size in sizes:
        ids = model.targets[:, at : at + size]
        at += size
        yield at - 1, runner.decode(ids, np.asarray([size, size]), encoded, mask)


def test_encoder_states_equal_transformers(opened):
    model, _, encoded, expected = opened
    actual = encoded["encoder_hidden_states"][model.mask > 0]
    assert np.abs(actual - expected["encoder_hidden_states"][model.mask > 0]).max() < TOLERANCE


def test_single_steps_equal_transformers(opened):
    model, runner, encoded, expected = opened
    for position, logits in steps(model, runner, encoded, [1] * model.targets.shape[1]):
        assert np.abs(logits - expected["logits"][:, position]).max() < TOLERANCE


@pytest.mark.parametrize("sizes", [(8, 1, 7, 1, 3), (5, 8, 1, 6), (1, 8, 8, 3)])
def test_chunks_equal_transformers(opened, sizes):
    model, runner, encoded, expected = opened
    for position, logits in steps(model, runner, encoded, sizes):
        assert np.abs(logits - expected["logits"][:, position]).max() < TOLERANCE


def test_targets_of_different_lengths_equal_transformers(opened):
    model, runner, encoded, expected = opened
    runner.restart()
    mask, counts = cross_mask(model, encoded), np.asarray([8, 3])
    logits = runner.decode(model.targets[:, :8], counts, encoded, mask)
    for step in range(4):
        wanted = expected["logits"][[0, 1], counts + step - 1]
        assert np.abs(logits - wanted).max() < TOLERANCE
        ids = model.targets[[0, 1], counts + step][:, None]
        logits = runner.decode(ids, np.asarray([1, 1]), encoded, mask)


def test_the_decoder_computes_no_cross_keys(opened, runtime):
    """Products of the cross-attention's k and v stand in the encoder's graph alone."""
    model, runner, encoded, _ = opened
    layers = range(model.configuration.decoder_layers)
    names = {name for name in encoded if name.startswith("cross")}
    assert len(names) == 2 * len(layers)
    if runtime == "onnx":
        taken = {item.name for item in runner._decoder.get_inputs()}
        data = (runner._folder / "decoder.onnx").read_bytes()
        assert names <= taken
        assert b"EncDecAttention.q" in data
        assert b"EncDecAttention.k" not in data
        assert cross_length(encoded) == model.ids.shape[1]
    else:
        decoder = runner._interpreter.get_signature_runner("decode_8")
        assert names <= set(decoder.get_input_details())
        assert cross_length(encoded) == ENCODER_LENGTHS[-1]


def reference(model):
    encoder = NumpyEncoderBuilder(model.ids, model.mask)
    model.encode(encoder)
    decoder = NumpyBuilder(model.targets, encoder=encoder.states)
    model.decode(decoder)
    return encoder.outputs["encoder_hidden_states"], decoder.logits


@pytest.mark.parametrize("name", ENCODER_DECODERS)
@pytest.mark.parametrize(
    ("recipe", "tolerance"),
    [
        ("fp16", TOLERANCE),
        ("fp32,embedding=int8", TOLERANCE),
        ("int8", ACTIVATION_ERROR),
        ("int4-block32", ACTIVATION_ERROR),
    ],
)
def test_quantized_graphs_stay_near_the_stored_weights(tmp_path, runtime, name, recipe, tolerance):
    model = TinyEncoderDecoder(name)
    runner = open_runner(runtime, model, tmp_path, recipe)
    encoded = runner.encode(model.ids, model.mask)
    scales = SCALES if runtime == "tflite" else "float32"
    states, logits = reference(TinyEncoderDecoder(name, recipe, scales))
    real = model.mask > 0
    pairs = [(encoded["encoder_hidden_states"][real], states[real])]
    for position, actual in steps(model, runner, encoded, (8, 1, 1, 7)):
        pairs.append((actual, logits[:, position]))
    for actual, wanted in pairs:
        error = np.linalg.norm(actual - wanted) / np.linalg.norm(wanted)
        assert error < tolerance


@pytest.mark.parametrize("graph", DECODER_GRAPHS, ids=lambda graph: graph.name)
@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_xnnpack_runs_all_but_indices_in_one_partition(tmp_path, recipe, graph):
    file = TfliteFile()
    weights = WeightStore(file, Recipe.parse(recipe))
    builder = TfliteBuilder(file, weights, graph, CONTEXT, encoder_tokens=ENCODER_LENGTHS[0])
    TinyEncoderDecoder("t5_v1_1").decode(builder)
    builder.finish()
    file.write(tmp_path / "model.tflite")
    partitions, outside = outside_of_partitions(tmp_path / "model.tflite")
    assert partitions == 1
    # The encoder's mask, the past's, and which token is the last; the past's distances.
    expected = ["CAST", "EMBEDDING_LOOKUP"] + ["CAST"] * (graph.tokens > 1)
    if graph.cache:
        expected += ["CAST", "EMBEDDING_LOOKUP", "MAXIMUM", "MINIMUM", "RESHAPE", "RESHAPE", "SUB"]
    assert outside == sorted(expected)

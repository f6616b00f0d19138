"""Operations one by one: what ONNX and TFLite graphs compute is what the reference computes."""

import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto
from tiny_checkpoint import ArraySource

from edgewise.exporter.graph.numpy_builder import NumpyBuilder, NumpyCache
from edgewise.exporter.graph.numpy_encoder import NumpyEncoderBuilder
from edgewise.exporter.graph.onnx_builder import OnnxBuilder
from edgewise.exporter.graph.onnx_encoder import OnnxEncoderBuilder
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.tflite_builder import TfliteBuilder
from edgewise.exporter.graph.tflite_encoder import TfliteEncoderBuilder
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_signatures import Signature
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.quantize.recipes import Recipe

RANDOM = np.random.default_rng(17)
TOKENS, WIDTH = 6, 32
X = RANDOM.normal(0, 3, (1, TOKENS, WIDTH)).astype(np.float32)
COUNT = 4  # real tokens


def weight(name, shape, role, mean=0.0):
    array = RANDOM.normal(mean, 0.5, shape).astype(np.float32)
    return Weight(name, role, ArraySource(array))


SCALE = weight("norm.weight", (WIDTH,), "norm", 1.0)
BIAS = weight("norm.bias", (WIDTH,), "bias")
POSITIONS = weight("positions.weight", (20, WIDTH), "position")
OPERATIONS = {
    "layer_norm": lambda b, x: b.layer_norm(x, SCALE, BIAS, 1e-5),
    "add_layer_norm": lambda b, x: b.add(*b.add_layer_norm(x, b.scale(x, 2.0), SCALE, BIAS, 1e-5)),
    "add": lambda b, x: b.add(x, x),
    "scale": lambda b, x: b.scale(x, 0.125),
    "position_embedding": lambda b, x: b.add(x, b.position_embedding(POSITIONS, 2)),
    "first_token": lambda b, x: b.first_token(x),
    "mean_of_tokens": lambda b, x: b.mean_of_tokens(x),
    **{
        kind: lambda b, x, kind=kind: b.activation(x, kind)
        for kind in ("silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "tanh")
    },
}


def mask():
    return (np.arange(TOKENS) < COUNT).astype(np.int64)[None]


def reference(operation):
    builder = NumpyEncoderBuilder(np.zeros((1, TOKENS), np.int64), mask())
    return operation(builder, X)


@pytest.mark.parametrize("name", OPERATIONS)
def test_onnx_computes_what_the_reference_does(tmp_path, name):
    with WeightFile(tmp_path / "w.data") as weights:
        builder = OnnxEncoderBuilder(weights, Recipe.parse("fp32"))
        builder.token_ids()
        builder._graph.add_input("x", TensorProto.FLOAT, ["batch", "tokens", WIDTH])
        builder.output("y", OPERATIONS[name](builder, "x"))
        (tmp_path / "m.onnx").write_bytes(builder.finish("test").SerializeToString())
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    feeds = {"x": X, "input_ids": np.zeros((1, TOKENS), np.int64), "attention_mask": mask()}
    taken = {item.name for item in session.get_inputs()}
    actual = session.run(["y"], {key: value for key, value in feeds.items() if key in taken})[0]
    assert np.abs(actual - reference(OPERATIONS[name])).max() < 1e-5


@pytest.mark.parametrize("name", OPERATIONS)
def test_tflite_computes_what_the_reference_does(tmp_path, name):
    file = TfliteFile()
    builder = TfliteEncoderBuilder(file, WeightStore(file, Recipe.parse("fp32")), TOKENS)
    x = builder._graph.input("x", (TOKENS, WIDTH))
    builder.output("y", OPERATIONS[name](builder, x))
    builder.finish()
    file.write(tmp_path / "m.tflite")
    runner = Interpreter(str(tmp_path / "m.tflite")).get_signature_runner(f"encode_{TOKENS}")
    feeds = {
        "x": X[0],
        "token_ids": np.zeros(TOKENS, np.int32),
        "token_count": np.asarray([COUNT], np.int32),
    }
    taken = runner.get_input_details()
    actual = runner(**{key: value for key, value in feeds.items() if key in taken})["y"]
    assert np.abs(actual - reference(OPERATIONS[name])[0]).max() < 1e-5


def test_learned_positions_of_a_decoder_go_on_behind_the_past(tmp_path):
    """GPT-2's and BART's decoders: row 2 + past + index in each builder."""
    past, tokens = 5, 3
    expected = POSITIONS.source.read(2 + past, 2 + past + tokens)
    cache = NumpyCache()
    cache.append(0, np.zeros((1, 1, past, 1), np.float32), np.zeros((1, 1, past, 1), np.float32))
    plain = NumpyBuilder(np.zeros((1, tokens), np.int64), cache)
    assert np.array_equal(plain.position_embedding(POSITIONS, 2)[0], expected)

    with WeightFile(tmp_path / "w.data") as weights:
        builder = OnnxBuilder(weights, Recipe.parse("fp32"), 16)
        builder.token_ids()
        builder.output_logits(builder.position_embedding(POSITIONS, 2))
        (tmp_path / "m.onnx").write_bytes(builder.finish("test").SerializeToString())
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    real = np.asarray([past + tokens, tokens - 1])  # the second row is a first, padded pass
    feeds = {
        "input_ids": np.zeros((2, tokens), np.int64),
        "attention_mask": (np.arange(past + tokens) < real[:, None]).astype(np.int64),
    }
    actual = session.run(None, feeds)[0]
    assert np.array_equal(actual[0], expected)
    assert np.array_equal(actual[1], POSITIONS.source.read(2, 2 + tokens))

    file = TfliteFile()
    store = WeightStore(file, Recipe.parse("fp32"))
    graph = TfliteBuilder(file, store, Signature(tokens, 8), 16)
    graph.output_logits(graph.position_embedding(POSITIONS, 2))
    graph.finish()
    file.write(tmp_path / "m.tflite")
    runner = Interpreter(str(tmp_path / "m.tflite")).get_signature_runner(f"prefill_{tokens}_8")
    feeds = {
        "token_ids": np.zeros(tokens, np.int32),
        "positions": np.arange(past, past + tokens, dtype=np.int32),
        "last_token": np.zeros(1, np.int32),
    }
    taken = runner.get_input_details()
    actual = runner(**{key: value for key, value in feeds.items() if key in taken})["logits"]
    assert np.array_equal(actual, expected)

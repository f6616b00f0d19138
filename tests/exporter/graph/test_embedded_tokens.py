"""Decoders that take the new tokens' embeddings in place of their ids: the same logits."""

import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from tiny_checkpoint import TinyModel, load_case

from edgewise.exporter.graph.numpy_builder import NumpyBuilder, NumpyCache
from edgewise.exporter.graph.onnx_builder import OnnxBuilder
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.tflite_builder import TfliteBuilder
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_signatures import Signature
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.quantize.recipes import Recipe

TOLERANCE = 1e-4
CONTEXT = 64


@pytest.fixture(params=["phi_half_rotary", "llama_tied_wide_head"])
def model(request):
    return TinyModel(load_case(request.param))


def embeddings(model):
    table = model.arrays["model.embed_tokens.weight"]
    return table[np.asarray([model.case.sequences[0]])]


def test_the_reference_takes_them_in_chunks(model):
    given, expected = embeddings(model), model.case.expected_logits()[0]
    cache = NumpyCache()
    for start, stop in ((0, 10), (10, 11), (11, len(expected))):
        builder = NumpyBuilder(given[:, start:stop], cache)
        model.forward(builder)
        assert np.abs(builder.logits[0] - expected[start:stop]).max() < TOLERANCE


def test_an_onnx_graph_takes_them(tmp_path, model):
    with WeightFile(tmp_path / "model.onnx.data") as weights:
        builder = OnnxBuilder(weights, Recipe.parse("fp32"), CONTEXT, takes_embeddings=True)
        model.forward(builder)
        (tmp_path / "model.onnx").write_bytes(builder.finish("test").SerializeToString())
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    names = {given.name: given.shape for given in session.get_inputs()}
    assert "input_ids" not in names
    assert names["inputs_embeds"] == ["batch", "new_tokens", model.configuration.hidden_size]
    given, c = embeddings(model), model.configuration
    empty = np.zeros((1, c.key_value_heads, 0, c.head_size), np.float32)
    cache = {name: empty for name in names if name.startswith("past")}
    done = 0
    for size in (len(given[0]) - 1, 1):
        done += size
        feeds = {
            "inputs_embeds": given[:, done - size : done],
            "attention_mask": np.ones((1, done), np.int64),
            **cache,
        }
        outputs = dict(
            zip(
                [output.name for output in session.get_outputs()],
                session.run(None, feeds),
                strict=True,
            )
        )
        cache = {name: outputs[name.replace("past_key_values", "present")] for name in cache}
        expected = model.case.expected_logits()[0][done - 1]
        assert np.abs(outputs["logits"][0, 0] - expected).max() < TOLERANCE


def test_a_tflite_graph_takes_them(tmp_path, model):
    file = TfliteFile()
    weights = WeightStore(file, Recipe.parse("fp32"))
    builder = TfliteBuilder(file, weights, Signature(32, 0), CONTEXT, takes_embeddings=True)
    model.forward(builder)
    builder.finish()
    file.write(tmp_path / "model.tflite")
    runner = Interpreter(model_path=str(tmp_path / "model.tflite")).get_signature_runner()
    given = embeddings(model)[0]
    padded = np.zeros((32, given.shape[1]), np.float32)
    padded[: len(given)] = given
    logits = runner(
        embeddings=padded,
        positions=np.arange(32, dtype=np.int32),
        last_token=np.asarray([len(given) - 1], np.int32),
    )["logits"]
    assert np.abs(logits[0] - model.case.expected_logits()[0][-1]).max() < TOLERANCE


def test_a_graph_of_embeddings_has_no_ids():
    file = TfliteFile()
    weights = WeightStore(file, Recipe.parse("fp32"))
    builder = TfliteBuilder(file, weights, Signature(1, 8), CONTEXT, takes_embeddings=True)
    with pytest.raises(ValueError, match="no ids"):
        builder.token_ids()

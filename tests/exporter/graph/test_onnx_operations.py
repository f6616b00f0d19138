"""Operations that no model here uses yet: the two builders lower them to the same numbers."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from edgewise.exporter.graph.attention import Attention, Rotary
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.onnx_builder import PAST_NAMES, OnnxBuilder
from edgewise.exporter.graph.onnx_operations import ATTENTION_MASK
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.quantize.recipes import Recipe

RANDOM = np.random.default_rng(13)


def run(folder, describe, x, past=None):
    """Build a graph of one operation on the float input "x" and run it on a first pass."""
    with WeightFile(folder / "w.data") as weights:
        builder = OnnxBuilder(weights, Recipe.parse("fp32"), 64)
        builder.token_ids()
        builder._graph.add_input("x", TensorProto.FLOAT, ["batch", "new_tokens", x.shape[-1]])
        builder.output_logits(describe(builder))
        model = builder.finish("test")
    onnx.save(model, folder / "m.onnx")
    session = onnxruntime.InferenceSession(str(folder / "m.onnx"))
    batch, tokens, _ = x.shape
    feeds = {"x": x, ATTENTION_MASK: np.ones((batch, tokens), np.int64), **(past or {})}
    names = {item.name for item in session.get_inputs()}
    if "input_ids" in names:
        feeds["input_ids"] = np.zeros((batch, tokens), np.int64)
    return session.run(["logits"], {name: feeds[name] for name in names})[0]


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
def test_every_activation_is_the_same_in_both(tmp_path, activation):
    x = RANDOM.normal(0, 4, (2, 3, 64)).astype(np.float32)
    actual = run(tmp_path, lambda builder: builder.gated_activation("x", activation), x)
    expected = NumpyBuilder(np.zeros((2, 3), np.int64)).gated_activation(x, activation)
    assert np.abs(actual - expected).max() < 1e-5


@pytest.mark.parametrize("rotary", [None, Rotary(tuple(0.5**k for k in range(8)))])
@pytest.mark.parametrize("scale", [0.25, 0.1])
def test_attention_is_the_same_in_both_with_and_without_rotation(tmp_path, rotary, scale):
    constants = Attention(0, 4, 2, 16, scale, rotary)
    x = RANDOM.normal(0, 1, (2, 5, (4 + 2 * 2) * 16)).astype(np.float32)
    past = {name.format(layer=0): np.zeros((2, 2, 0, 16), np.float32) for name in PAST_NAMES}

    def attend(builder):
        edge = builder.attention("x", constants)
        return builder._graph.node("Identity", [edge], "copy")

    actual = run(tmp_path, attend, x, past)
    expected = NumpyBuilder(np.zeros((2, 5), np.int64)).attention(x, constants)
    assert np.abs(actual - expected).max() < 1e-5

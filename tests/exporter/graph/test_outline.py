"""Outlines say what the graphs of every tiny model declare, without a weight being read."""

import pytest
from tiny_checkpoint import CASES, TinyModel, load_case
from tiny_families import ENCODER_DECODERS, ENCODERS, TinyEncoder, TinyEncoderDecoder

from edgewise.exporter.graph.numpy_encoder import NumpyEncoderBuilder
from edgewise.exporter.graph.onnx_encoder import TOKEN_TYPES, OnnxEncoderBuilder
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.outline import OutlineBuilder
from edgewise.exporter.quantize.recipes import Recipe


class Unread:
    """A weight's source that tells its shape alone."""

    stored_type = "F32"

    def __init__(self, source):
        self.shape = source.shape


def outlined(describe, model):
    """Describe a pass with weights that can not be read."""
    builder = OutlineBuilder()
    weight = model.weight

    def unread(name):
        found = weight(name)
        object.__setattr__(found, "source", Unread(found.source))
        return found

    describe(builder, model.configuration, unread)
    return builder


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_declares_what_its_graph_does(tmp_path, name):
    model = TinyEncoder(name)
    outline = outlined(model.definition.forward, model)
    computed = NumpyEncoderBuilder(model.ids, model.mask, model.types)
    model.forward(computed)
    assert outline.outputs == list(computed.outputs)
    with WeightFile(tmp_path / "weights") as weights:
        builder = OnnxEncoderBuilder(weights, Recipe.parse("fp32"))
        model.forward(builder)
        inputs = {item.name for item in builder.finish("test").graph.input}
    assert outline.has_token_types is (TOKEN_TYPES in inputs)
    assert outline.cross_layers == []


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_both_sides_of_an_encoder_decoder_name_the_same_layers(name):
    model = TinyEncoderDecoder(name)
    layers = list(range(model.configuration.decoder_layers))
    assert outlined(model.definition.encode, model).cross_layers == layers
    decoder = outlined(model.definition.decode, model)
    assert decoder.cross_layers == layers
    assert decoder.outputs == ["logits"]


@pytest.mark.parametrize("name", CASES)
def test_a_decoder_declares_logits(name):
    model = TinyModel(load_case(name))
    outline = outlined(model.definition.forward, model)
    assert (outline.outputs, outline.cross_layers) == (["logits"], [])

"""What a traced graph and its configuration say of the model."""

import pytest
from traced_cases import POSITIONS, VOCABULARY, config_of, folder_of

from edgewise.exporter.graph.onnx_traced import TracedGraph, TracedGraphError
from edgewise.exporter.models.decoder import DecoderConfiguration
from edgewise.exporter.models.encoder import EncoderConfiguration
from edgewise.exporter.traced.model import ENDLESS_CONTEXT, TracedModel


def model_of(name: str, task: str) -> TracedModel:
    return TracedModel(TracedGraph(folder_of(name) / "model.onnx"), task)


def test_a_decoder():
    model = model_of("opt_tied", "text-generation-with-past")
    c = model.configuration(config_of("opt_tied"))
    assert isinstance(c, DecoderConfiguration)
    assert (c.vocabulary_size, c.hidden_size, c.intermediate_size) == (VOCABULARY, 32, 48)
    assert (c.layers, c.key_value_heads, c.head_size, c.context_length) == (1, 2, 16, POSITIONS)
    assert c.tied_head
    assert not c.labels
    assert model.family == "decoder"


def test_a_classifier():
    model = model_of("electra_classify", "text-classification")
    c = model.configuration(config_of("electra_classify"))
    assert isinstance(c, EncoderConfiguration)
    assert (c.head, c.labels) == ("classification", ("dull", "fair", "bright"))
    assert (c.heads, c.head_size, c.intermediate_size, c.context_length) == (2, 16, 64, 40)
    assert model.family == "encoder"


@pytest.mark.parametrize(
    ("change", "context"),
    [
        ({"max_position_embeddings": None, "n_positions": 77}, 77),
        ({"max_position_embeddings": None}, ENDLESS_CONTEXT),
        ({"max_position_embeddings": 514, "model_type": "camembert", "pad_token_id": 1}, 512),
        ({"max_position_embeddings": 514}, 514),
    ],
)
def test_the_context_by_the_names_and_rules_of_configurations(change, context):
    model = model_of("albert_features", "feature-extraction")
    assert model.configuration(config_of("albert_features") | change).context_length == context


def test_a_graph_of_another_kind_than_the_task_is_refused():
    with pytest.raises(TracedGraphError, match="traced for fill-mask has a cache"):
        model_of("gpt_neox", "fill-mask")
    with pytest.raises(TracedGraphError, match="text-generation-with-past has no cache"):
        model_of("albert_features", "text-generation-with-past")

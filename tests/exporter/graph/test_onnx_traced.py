"""What is told of a model from its traced graph, against what its configuration says."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from traced_cases import CASES, HEAD_SIZE, HEADS, VOCABULARY, config_of, expected_of, folder_of

from edgewise.exporter.graph.onnx_traced import TracedCache, TracedGraph, TracedGraphError

PROJECTIONS = {  # name -> the matrices of a layer: role, shape
    "gpt_neox": {
        "attention.query_key_value": ("attention", (96, 32)),
        "attention.dense": ("attention", (32, 32)),
        "mlp.dense_h_to_4h": ("mlp", (64, 32)),
        "mlp.dense_4h_to_h": ("mlp", (32, 64)),
    },
    "opt_tied": {
        **{f"self_attn.{part}_proj": ("attention", (32, 32)) for part in ("q", "k", "v", "out")},
        "fc1": ("mlp", (48, 32)),
        "fc2": ("mlp", (32, 48)),
    },
}


def graph_of(name: str) -> TracedGraph:
    return TracedGraph(folder_of(name) / "model.onnx")


@pytest.mark.parametrize("name", list(PROJECTIONS))
def test_a_decoder_has_its_projections_by_role(name):
    graph = graph_of(name)
    layers = config_of(name)["num_hidden_layers"]
    found = {
        matrix: (role, shape)
        for matrix, (shape, role) in graph.tensors.items()
        if role in {"attention", "mlp"}
    }
    assert len(found) == layers * len(PROJECTIONS[name])
    for layer in range(layers):
        for part, expected in PROJECTIONS[name].items():
            (actual,) = [
                value
                for key, value in found.items()
                if key.endswith(f"layers.{layer}.{part}.weight")
            ]
            assert actual == expected


@pytest.mark.parametrize(
    ("name", "tied", "layers"), [("gpt_neox", False, 2), ("opt_tied", True, 1)]
)
def test_embedding_head_and_cache_of_a_decoder(name, tied, layers):
    graph = graph_of(name)
    assert graph.embedding.shape == (VOCABULARY, 32)
    assert graph.head == "logits"
    assert graph.products["logits"].role == "head"
    assert graph.products["logits"].matrix.shape == (VOCABULARY, 32)
    assert graph.tied_head is tied
    assert [role for _, role in graph.tensors.values()].count("head") == (not tied)
    assert graph.cache == TracedCache(layers, HEADS, HEAD_SIZE)
    assert set(graph.inputs) == {"input_ids", "attention_mask", "position_ids"}


def test_matrices_are_read_out_in_whichever_way_they_are_stored():
    """Of Gemm the first, of MatMul the second; both against the head of a tied model."""
    graph = graph_of("opt_tied")
    fc1 = next(p for p in graph.products.values() if p.matrix.name.endswith("fc1.weight"))
    assert fc1.node.op_type == "Gemm"
    stored = onnx.load(str(folder_of("opt_tied") / "model.onnx"))
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in stored.graph.initializer}
    assert np.array_equal(fc1.matrix.read(), arrays[fc1.node.input[1]])
    head = graph.products["logits"]
    assert head.node.op_type == "MatMul"
    assert np.array_equal(head.matrix.read(), arrays[head.node.input[1]].T)
    assert np.array_equal(head.matrix.read(3, 9), graph.embedding.read(3, 9))
    assert head.matrix.read_blocks() is None


def test_layers_that_share_their_weights_have_them_once():
    graph = graph_of("albert_features")
    assert config_of("albert_features")["num_hidden_layers"] == 2
    multiplied = [product.matrix.name for product in graph.products.values()]
    assert len(multiplied) == 13  # six projections, twice, and that of the embedding
    assert len(set(multiplied)) == 7
    assert sum(name in set(multiplied) for name in graph.tensors) == 7


def test_an_encoder_has_no_cache_and_its_classifier_is_its_head():
    graph = graph_of("electra_classify")
    assert graph.cache is None
    assert graph.products[graph.head].matrix.shape == (3, 32)
    assert graph.products[graph.head].rank == 2
    assert not graph.tied_head
    assert graph_of("albert_features").head is None


@pytest.mark.parametrize("name", CASES)
def test_all_numbers_of_the_checkpoint_are_counted(name):
    """The file of weights has every tensor once, and a tied head a second time."""
    counted = sum(int(np.prod(shape)) for shape, _ in graph_of(name).tensors.values())
    stored = onnx.load(str(folder_of(name) / "model.onnx"), load_external_data=False)
    whole = sum(
        int(np.prod(item.dims))
        for item in stored.graph.initializer
        if item.data_type == TensorProto.FLOAT
    )
    tied = VOCABULARY * 32 if name == "opt_tied" else 0
    assert counted == whole - tied


# Refusals


@pytest.fixture
def changed(tmp_path):
    """Return a function that changes the graph of gpt_neox and opens what comes out."""

    def opened(change) -> TracedGraph:
        shutil.copytree(folder_of("gpt_neox"), tmp_path / "graph")
        path = tmp_path / "graph" / "model.onnx"
        model = onnx.load(str(path), load_external_data=False)
        change(model)
        path.write_bytes(model.SerializeToString())
        graph = TracedGraph(path)
        for product in graph.products.values():
            product.matrix.read()
        return graph

    return opened


def older(model):
    model.opset_import[0].version = 17


def without_a_cache_of_one_layer(model):
    kept = [item for item in model.graph.input if ".1." not in item.name]
    del model.graph.input[:]
    model.graph.input.extend([*kept, helper.make_tensor_value_info("pixels", 1, [1])])


def with_another_size_in_one_layer(model):
    model.graph.input[3].type.tensor_type.shape.dim[3].dim_value = 8


def without_an_embedding(model):
    for node in model.graph.node:
        node.input[:] = ["mask_ids" if edge == "input_ids" else edge for edge in node.input]


def with_weights_elsewhere(model):
    next(
        entry
        for item in model.graph.initializer
        for entry in item.external_data
        if entry.key == "location"
    ).value = "../weights.bin"


def with_weights_behind_the_end(model):
    next(
        entry
        for item in model.graph.initializer
        for entry in item.external_data
        if entry.key == "offset"
    ).value = str(1 << 30)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (older, "operator set 17; from 18 on is accepted"),
        (without_a_cache_of_one_layer, "takes pixels, which nothing here gives"),
        (with_another_size_in_one_layer, "keeps its cache in another way .*alike in every layer"),
        (without_an_embedding, "looks up no token ids"),
        (with_weights_elsewhere, "outside of its folder"),
        (with_weights_behind_the_end, "weights of the traced graph lack"),
    ],
)
def test_what_can_not_be_gone_on_with_is_refused(changed, change, words):
    with pytest.raises(TracedGraphError, match=words):
        changed(change)


def test_what_is_no_graph_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(json.dumps({"graph": 1}).encode())
    with pytest.raises(TracedGraphError, match=r"model\.onnx can not be read as a graph"):
        TracedGraph(tmp_path / "model.onnx")


def test_the_stored_graphs_are_of_the_stored_results():
    for name in CASES:
        assert expected_of(name)["ids"].shape == (2, 12)

"""A graph under construction: each thing once, small constants inline, nothing that is not read."""

import numpy as np
import pytest
from onnx import TensorProto

from edgewise.exporter.graph.onnx_graph import LARGEST_INLINE, OnnxGraph
from edgewise.exporter.graph.onnx_weights import WeightFile


@pytest.fixture
def graph(tmp_path):
    with WeightFile(tmp_path / "w.data") as weights:
        yield OnnxGraph(weights)


def test_small_constants_are_inline_and_large_ones_in_the_file(graph):
    small = np.zeros(LARGEST_INLINE // 4, np.float32)
    graph.constant("small", small)
    assert graph.weights.nbytes == 0
    graph.constant("large", np.zeros(LARGEST_INLINE // 4 + 1, np.float32))
    assert graph.weights.nbytes == LARGEST_INLINE + 4
    graph.node("Add", ["small", "large"], "sum")
    tensors = {tensor.name: tensor for tensor in graph.to_model("1").graph.initializer}
    assert tensors["small"].raw_data == small.tobytes()
    assert tensors["large"].data_location == TensorProto.EXTERNAL


def test_a_constant_is_added_once(graph):
    for value in (1, 2):
        graph.constant("one", np.array(value, np.float32))
    graph.node("Neg", ["one"], "negative")
    (tensor,) = graph.to_model("1").graph.initializer
    assert np.frombuffer(tensor.raw_data, np.float32) == [1]


def test_what_no_node_reads_is_left_out(graph):
    graph.constant("read", np.array(1, np.float32))
    graph.constant("unread", np.array(2, np.float32))
    graph.node("Neg", ["read"], "negative")
    assert [tensor.name for tensor in graph.to_model("1").graph.initializer] == ["read"]


def test_the_last_edge_takes_another_name(graph):
    graph.node("Neg", ["x"], "first")
    graph.node("Neg", ["first"], "second")
    graph.rename("second", "y")
    assert (graph.has("y"), graph.has("second")) == (True, False)
    assert [list(node.output) for node in graph.nodes] == [["first"], ["y"]]
    with pytest.raises(ValueError, match="'first' is not what the last node gives"):
        graph.rename("first", "z")

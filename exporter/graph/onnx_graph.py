"""A graph under construction: nodes, inputs, outputs and initializers, each made once by name.

Small constants stay in the graph, everything else goes to the weights file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgewise.exporter.graph.onnx_weights import StoredTensor, WeightFile

CONTRIB = "com.microsoft"  # the domain of onnxruntime's own operators
OPSET = 21
IR_VERSION = 10  # the newest that onnxruntime 1.18 and later read with opset 21
LARGEST_INLINE = 1024  # bytes; what is larger goes to the weights file


class OnnxGraph:
    """Collects what ``to_model`` puts together."""

    def __init__(self, weights: WeightFile) -> None:
        """Begin an empty graph over a weights file."""
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self._inputs: dict[str, onnx.ValueInfoProto] = {}
        self._outputs: dict[str, onnx.ValueInfoProto] = {}
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._edges: set[str] = set()

    def has(self, edge: str) -> bool:
        """Tell whether a node already gives this edge."""
        return edge in self._edges

    def has_initializer(self, name: str) -> bool:
        """Tell whether this constant is there."""
        return name in self._initializers

    def add_input(self, name: str, kind: int, shape: Sequence[str | int]) -> None:
        """Declare a graph input; a name stands for a free dimension."""
        self._inputs[name] = helper.make_tensor_value_info(name, kind, list(shape))

    def add_optional_input(
        self, name: str, default: NDArray[Any], shape: Sequence[str | int]
    ) -> str:
        """Declare a graph input that is the default where a caller leaves it out.

        Such an input is an initializer that is also listed as an input (ONNX IR specification,
        "Graphs"); onnxruntime calls it overridable.
        """
        self._initializers[name] = numpy_helper.from_array(default, name)
        kind = self._initializers[name].data_type
        self.add_input(name, kind, shape)
        return name

    def add_output(self, name: str, kind: int, shape: Sequence[str | int]) -> None:
        """Declare a graph output."""
        self._outputs[name] = helper.make_tensor_value_info(name, kind, list(shape))

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node with one output and return that edge; the edge names the node."""
        self.nodes.append(
            helper.make_node(
                operator, list(inputs), [output], name=output, domain=domain, **attributes
            )
        )
        self._edges.add(output)
        return output

    def mean_of_real_tokens(self, x: str, mask: str, output: str) -> str:
        """Append the mean over each sequence's real tokens and return its edge.

        A product with a row of ones and zeros sums them.

        Args:
            x: float32 [B, T, D].
            mask: int64 [B, T], 1 for real tokens and 0 for padding.
            output: The edge to make, float32 [B, 1, D].
        """
        axis = self.constant("one", np.array([1], np.int64))
        last = self.constant("axis_-1", np.array([-1], np.int64))
        real = self.node("Cast", [mask], f"{x}/real", to=onnx.TensorProto.FLOAT)
        real = self.node("Unsqueeze", [real, axis], f"{x}/real_row")
        total = self.node("MatMul", [real, x], f"{x}/total")
        count = self.node("ReduceSum", [real, last], f"{x}/count", keepdims=1)
        return self.node("Div", [total, count], output)

    def adopt(self, node: onnx.NodeProto) -> None:
        """Append a node that was made elsewhere."""
        self.nodes.append(node)
        self._edges.update(node.output)

    def rename(self, edge: str, name: str) -> None:
        """Give the edge that the last node made another name; nothing may read it yet."""
        last = self.nodes[-1]
        if list(last.output) != [edge]:
            raise ValueError(f"{edge!r} is not what the last node gives, {list(last.output)}")
        last.output[0] = name
        self._edges.discard(edge)
        self._edges.add(name)

    def localize(self, start: int, stem: str, place: str) -> None:
        """Let edges be called by where they are computed, not by what they are computed from.

        Args:
            start: The first of the last nodes, among which edges are renamed.
            stem: How such an edge begins, a weight's name.
            place: What stands there instead.
        """
        made = {edge for node in self.nodes[start:] for edge in node.output}
        new = {
            edge: place + (edge.removeprefix(stem) or "/result")
            for edge in made
            if edge == stem or edge.startswith(f"{stem}/")
        }
        for node in self.nodes[start:]:
            for edges in (node.input, node.output):
                edges[:] = [new.get(edge, edge) for edge in edges]
            node.name = node.output[0]
        self._edges = (self._edges - set(new)) | set(new.values())

    def prune(self) -> None:
        """Remove nodes of which no other and no output of the graph reads anything."""
        wanted, kept = set(self._outputs), []
        for node in reversed(self.nodes):
            if wanted.isdisjoint(node.output):
                continue
            wanted.update(edges_read(node))
            kept.append(node)
        self.nodes = kept[::-1]

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Add an initializer once, inline or in the weights file by its size."""
        if name not in self._initializers:
            if array.nbytes <= LARGEST_INLINE:
                self._initializers[name] = numpy_helper.from_array(np.asarray(array), name)
            else:
                self._initializers[name], _ = self.weights.add(name, array)
        return name

    def stored(self, name: str, array: NDArray[np.generic]) -> StoredTensor:
        """Add an initializer in the weights file whatever its size, and tell where it lies."""
        self._initializers[name], place = self.weights.add(name, array)
        return place

    def initializer(self, proto: onnx.TensorProto) -> str:
        """Add an initializer that was made elsewhere."""
        self._initializers[proto.name] = proto
        return str(proto.name)

    def to_model(self, producer_version: str, opset: int = OPSET) -> onnx.ModelProto:
        """Put the model together; an initializer that no node reads is left out."""
        read = {name for node in self.nodes for name in edges_read(node)}
        graph = helper.make_graph(
            self.nodes,
            "decoder",
            list(self._inputs.values()),
            list(self._outputs.values()),
            [proto for name, proto in self._initializers.items() if name in read],
        )
        return helper.make_model(
            graph,
            producer_name="edgewise",
            producer_version=producer_version,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)],
        )


def edges_read(node: onnx.NodeProto) -> Iterator[str]:
    """Give what a node reads, its branches and bodies included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from edges_read(inner)
            yield from (output.name for output in graph.output)

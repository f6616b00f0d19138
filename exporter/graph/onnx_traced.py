"""A graph as a tracer wrote it, and what can be told of the model from it.

Workflow: the graph is read without its weights, which stay in their file, mapped; products with a
constant matrix, the look-up of token ids and the cache are found by how they are connected. Rules:
what is a projection of the attention is told by the node's name, which is the path of its module;
everything else is told by edges and shapes.

| in the graph | role |
|---|---|
| Gather of a matrix by what input_ids becomes by reshaping alone | embedding |
| the last product before logits, with only element-wise operators behind it | head |
| MatMul or Gemm by a constant matrix inside a module named like attention | attention |
| every other MatMul or Gemm by a constant matrix | mlp |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.graph.onnx_graph import edges_read
from edgewise.exporter.graph.weight import Role

OLDEST_OPSET = 18  # in which reductions take their axes as an input, as our own nodes do
INPUTS = frozenset(
    {
        "input_ids",
        "attention_mask",
        "position_ids",
        "token_type_ids",
        "encoder_attention_mask",
    }
)
CROSS_NAME = re.compile(r"cross_key_values\.\d+\.(?:key|value)")  # of an encoder for a decoder
CACHE_NAME = re.compile(r"past_key_values\.(?P<layer>\d+)\.(?:key|value)")
ATTENTION = re.compile("attn|attention", re.IGNORECASE)
RESHAPING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
ELEMENTWISE = frozenset({"Add", "Cast", "Div", "Identity", "Mul", "Sub", "Tanh"})
COMPARED_AT_ONCE = 1024  # rows of a head and an embedding


class TracedGraphError(EdgewiseError):
    """A traced graph that this version can not go on with."""


@dataclass(frozen=True)
class TracedMatrix:
    """A constant matrix, a view of the tracer's file; it fulfils ``WeightSource``."""

    name: str
    array: NDArray[np.float32]  # [out, in], whichever way it is stored

    stored_type = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``WeightSource``."""
        return self.array.shape

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """See ``WeightSource``."""
        rows: NDArray[np.float32] = np.array(self.array[start:stop], np.float32, order="C")
        return rows

    def read_blocks(self, start: int = 0, stop: int | None = None) -> None:
        """Give None: a tracer stores plain numbers."""
        del start, stop


@dataclass(frozen=True)
class Product:
    """A node that multiplies activations by a constant matrix."""

    node: onnx.NodeProto
    role: Role
    matrix: TracedMatrix
    rank: int | None  # of the activations; None: not known

    @property
    def bias(self) -> str:
        """The edge with what the node adds; empty for nothing."""
        return str(self.node.input[2]) if len(self.node.input) > 2 else ""


@dataclass(frozen=True)
class TracedCache:
    """The cache that the graph takes and gives back."""

    layers: int
    key_value_heads: int
    head_size: int
    past: tuple[str, str] = ("past_key_values.{layer}.key", "past_key_values.{layer}.value")
    present: tuple[str, str] = ("present.{layer}.key", "present.{layer}.value")


class TracedGraph:
    """What a tracer wrote, taken apart.

    Attributes:
        nodes: All nodes, in an order in which they can be computed.
        values: All inputs, by name.
        inputs: Those other than the cache.
        cross: Those that an encoder gives.
        outputs: All results, by name.
        opset: The version of the operators.
        cache: None of an encoder.
        embedding: The matrix that token ids are looked up in.
        lookups: Nodes that look token ids up, by the edge that they give.
        products: By the edge that the node gives.
        head: The edge that the head gives; None: the graph gives no logits, or not by one product.
        tied_head: Whether the head's matrix holds the embedding's numbers.
    """

    def __init__(self, path: Path) -> None:
        """Read a graph.

        Args:
            path: The .onnx file; its weights lie beside it, or in it.

        Raises:
            TracedGraphError: It is no graph, or not of a decoder or encoder of tokens.
        """
        self.path = path
        model = _read(path)
        self.opset = max(item.version for item in model.opset_import if item.domain == "")
        if self.opset < OLDEST_OPSET:
            raise TracedGraphError(
                f"the traced graph is of operator set {self.opset}; from {OLDEST_OPSET} on is "
                "accepted: upgrade optimum-onnx"
            )
        self.nodes = list(model.graph.node)
        self._constants = {item.name: item for item in model.graph.initializer}
        self._makers = {edge: node for node in self.nodes for edge in node.output}
        self._ranks = _ranks(model)
        values = {item.name: item for item in model.graph.input}
        self.values = values
        self.outputs = {item.name: item for item in model.graph.output}
        self.cache = _cache(values, self.outputs)
        self.inputs = {name: item for name, item in values.items() if not CACHE_NAME.match(name)}
        self.cross = {name for name in self.inputs if CROSS_NAME.fullmatch(name)}
        if foreign := sorted(set(self.inputs) - INPUTS - self.cross):
            raise TracedGraphError(
                f"the traced graph takes {', '.join(foreign)}, which nothing here gives; accepted "
                f"are models that take {', '.join(sorted(INPUTS))}"
            )
        self._names: dict[str, str] = {}
        self.head = self._find_head()
        self.lookups = {str(node.output[0]): node for node in self.nodes if self._looks_up(node)}
        if not self.lookups:
            raise TracedGraphError(
                "the traced graph looks up no token ids in a matrix, as every model of texts does"
            )
        first = next(iter(self.lookups.values()))
        self.embedding = self._matrix(first, 0, transposed=False)
        self.products = {
            str(node.output[0]): product
            for node in self.nodes
            if (product := self._product(node)) is not None
        }
        head = None if self.head is None else self.products[self.head].matrix
        self.tied_head = head is not None and _same_numbers(head, self.embedding)

    @property
    def tensors(self) -> Mapping[str, tuple[tuple[int, ...], Role]]:
        """Shape and role of each constant with weights, once each; a tied head has none."""
        found: dict[str, tuple[tuple[int, ...], Role]] = {
            self.embedding.name: (self.embedding.shape, "embedding")
        }
        for edge, product in self.products.items():
            if edge != self.head or not self.tied_head:
                found.setdefault(product.matrix.name, (product.matrix.shape, product.role))
        replaced = {self._origin(node.input[1])[0] for node in self._product_nodes()}
        replaced |= {self._origin(node.input[0])[0] for node in self.lookups.values()}
        for name in {edge for node in self.nodes for edge in edges_read(node)} - replaced:
            if name in self._constants and self._constants[name].data_type == TensorProto.FLOAT:
                shape = tuple(self._constants[name].dims)
                found[name] = (shape, "position" if len(shape) > 1 else "norm")
        return found

    def share_embedding(self, other: TracedMatrix) -> None:
        """Call the embedding as another graph does, where it holds the same numbers."""
        if _same_numbers(self.embedding, other):
            self.embedding = TracedMatrix(other.name, self.embedding.array)

    def constant(self, name: str) -> onnx.TensorProto | None:
        """Return a constant as it stands in the graph, None if an edge is none."""
        return self._constants.get(name)

    def array(self, name: str) -> NDArray[Any]:
        """Return a constant's numbers, mapped where they lie in a file.

        Raises:
            TracedGraphError: The file does not hold them.
        """
        proto = self._constants[name]
        if proto.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(proto)
        place = {entry.key: entry.value for entry in proto.external_data}
        dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
        location = place["location"]
        if Path(location).name != location:
            raise TracedGraphError(f"the traced graph places {name} outside of its folder")
        try:
            return np.memmap(
                self.path.with_name(location),
                dtype,
                "r",
                offset=int(place.get("offset", "0")),
                shape=tuple(proto.dims),
            )
        except (OSError, ValueError) as error:
            raise TracedGraphError(
                f"the weights of the traced graph lack {name}: {error}"
            ) from error

    def name_of(self, node: onnx.NodeProto) -> str:
        """Return the path of the module that a node is of, as in "layers.0.attention.query"."""
        path = str(node.name or node.output[0])
        return ".".join(part for part in path.split("/")[:-1] if part) or path.strip("/")

    def _product(self, node: onnx.NodeProto) -> Product | None:
        if not self._is_product(node):
            return None
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        stored_as_out_in = bool(attributes.get("transB", 0))
        role: Role = "attention" if ATTENTION.search(self.name_of(node)) else "mlp"
        return Product(
            node,
            "head" if node.output[0] == self.head else role,
            self._matrix(node, 1, transposed=not stored_as_out_in),
            2 if node.op_type == "Gemm" else self._ranks.get(node.input[0]),
        )

    def _product_nodes(self) -> Iterator[onnx.NodeProto]:
        return (node for node in self.nodes if self._is_product(node))

    def _is_product(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node is a product by a constant matrix that can be rewritten."""
        if node.op_type not in {"MatMul", "Gemm"} or not self._is_matrix(node.input[1]):
            return False
        if node.op_type == "MatMul":
            return self._ranks.get(node.input[0]) in {2, 3, None}
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        return all(
            onnx.helper.get_attribute_value(item) == plain.get(item.name)
            for item in node.attribute
            if item.name in plain
        )

    def _looks_up(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Gather" or not self._is_matrix(node.input[0]):
            return False
        if any(item.name == "axis" and item.i != 0 for item in node.attribute):
            return False
        edge = node.input[1]
        while edge in self._makers and self._makers[edge].op_type in RESHAPING:
            edge = self._makers[edge].input[0]
        return bool(edge == "input_ids")

    def _find_head(self) -> str | None:
        edge = "logits" if "logits" in self.outputs else ""
        while edge in self._makers:
            node = self._makers[edge]
            if self._is_product(node):
                return edge
            changing = [name for name in node.input if name and not self._is_constant(name)]
            if node.op_type not in ELEMENTWISE or len(changing) != 1:
                return None
            edge = changing[0]
        return None

    def _is_constant(self, edge: str) -> bool:
        maker = self._makers.get(edge)
        return self._origin(edge)[0] in self._constants or (
            maker is not None and maker.op_type == "Constant"
        )

    def _is_matrix(self, edge: str) -> bool:
        proto = self._constants.get(self._origin(edge)[0])
        return proto is not None and proto.data_type == TensorProto.FLOAT and len(proto.dims) == 2

    def _origin(self, edge: str) -> tuple[str, bool]:
        """Follow an edge to the constant that it is, and tell whether it is transposed."""
        turned = False
        while edge in self._makers:
            node = self._makers[edge]
            if node.op_type == "Transpose":
                permutation = [list(item.ints) for item in node.attribute if item.name == "perm"]
                if permutation not in ([], [[1, 0]]):
                    break
                turned = not turned
            elif node.op_type != "Identity":
                break
            edge = node.input[0]
        return edge, turned

    def _matrix(self, node: onnx.NodeProto, index: int, *, transposed: bool) -> TracedMatrix:
        """Return a constant matrix; what several nodes read is called after the first."""
        edge, turned = self._origin(node.input[index])
        array = self.array(edge)
        name = self._names.setdefault(edge, f"{self.name_of(node)}.weight")
        return TracedMatrix(name, array.T if turned != transposed else array)


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises a class of its own for each cause
        raise TracedGraphError(f"{path.name} can not be read as a graph: {error}") from error


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def _cache(
    inputs: Mapping[str, onnx.ValueInfoProto], outputs: Mapping[str, onnx.ValueInfoProto]
) -> TracedCache | None:
    shapes = {
        name: [item.dim_value for item in value.type.tensor_type.shape.dim]
        for name, value in inputs.items()
        if CACHE_NAME.match(name)
    }
    if not shapes:
        return None
    layers = len(shapes) // 2
    found = {tuple(shape) for shape in shapes.values()}
    heads, size = next(iter(found))[1::2] if len(next(iter(found))) == 4 else (0, 0)
    cache = TracedCache(layers, heads, size)
    expected = {name.format(layer=layer) for layer in range(layers) for name in cache.past}
    given = {name.format(layer=layer) for layer in range(layers) for name in cache.present}
    if len(found) != 1 or not heads or not size or set(shapes) != expected or given - set(outputs):
        described = ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())[:4])
        raise TracedGraphError(
            f"the traced graph keeps its cache in another way than is known here ({described}); "
            "accepted are keys and values [batch, heads, tokens, size], alike in every layer"
        )
    return cache


def _same_numbers(left: TracedMatrix, right: TracedMatrix) -> bool:
    if left.shape != right.shape:
        return False
    return all(
        np.array_equal(left.read(start, start + COMPARED_AT_ONCE), rows)
        for start in range(0, left.shape[0], COMPARED_AT_ONCE)
        for rows in [right.read(start, start + COMPARED_AT_ONCE)]
    )

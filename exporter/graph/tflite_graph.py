"""One graph of a .tflite model under construction: tensors with static shapes, and operators.

A value is an `Edge`: a tensor's index and its shape. Operator versions are those that
tensorflow/lite/tools/versioning/op_version.cc gives to the forms used here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgewise.exporter.graph.tflite_file import TfliteFile

Operator = schema.BuiltinOperator
ElementType = schema.TensorType
Shape = tuple[int, ...]

_ELEMENT_TYPES = {"float32": ElementType.FLOAT32, "int32": ElementType.INT32}


@dataclass(frozen=True)
class Edge:
    """A tensor of a graph."""

    index: int
    shape: Shape


class TfliteGraph:
    """Collects tensors and operators of one signature; `finish` adds them to the model."""

    def __init__(self, model: TfliteFile, signature: str) -> None:
        """Begin an empty graph."""
        self.model = model
        self._signature = signature
        self._tensors: list[schema.TensorT] = []
        self._operators: list[schema.OperatorT] = []
        self._inputs: dict[str, Edge] = {}
        self._outputs: dict[str, Edge] = {}
        self._stored: dict[tuple[str, Shape], Edge] = {}
        self._made: dict[str, Edge] = {}

    def input(
        self,
        name: str,
        shape: Shape,
        element_type: int = ElementType.FLOAT32,
        quantization: schema.QuantizationParametersT | None = None,
    ) -> Edge:
        """Declare an input once."""
        if name not in self._inputs:
            self._inputs[name] = self._tensor(name, shape, element_type, 0, quantization)
        return self._inputs[name]

    def output(self, name: str, edge: Edge) -> None:
        """Declare an edge as a result."""
        self._outputs[name] = edge

    def stored(
        self,
        name: str,
        shape: Shape,
        element_type: int,
        quantization: schema.QuantizationParametersT | None = None,
    ) -> Edge:
        """Refer to an array that is registered with the model, once for each shape."""
        key = (name, shape)
        if key not in self._stored:
            buffer = self.model.buffer_of(name)
            self._stored[key] = self._tensor(name, shape, element_type, buffer, quantization)
        return self._stored[key]

    def constant(self, name: str, array: NDArray[np.generic]) -> Edge:
        """Register a float32 or int32 array that is in memory, and refer to it."""
        content = np.ascontiguousarray(array)
        self.model.add_array(name, content.nbytes, content.tofile)
        return self.stored(name, content.shape, _ELEMENT_TYPES[content.dtype.name])

    def integers(self, values: Sequence[int]) -> Edge:
        """Refer to a short int32 vector, as operators take shapes, axes and sizes."""
        return self.constant(f"integers/{','.join(map(str, values))}", np.asarray(values, np.int32))

    def number(self, value: float) -> Edge:
        """Refer to one float32, of a shape that broadcasts."""
        exact = np.float32(value)
        return self.constant(f"number/{float(exact)!r}", np.full(1, exact, np.float32))

    def operator(
        self,
        operator: int,
        inputs: Sequence[Edge | None],
        shape: Shape,
        name: str,
        *,
        version: int = 1,
        options: Any = None,
        element_type: int = ElementType.FLOAT32,
        quantization: schema.QuantizationParametersT | None = None,
    ) -> Edge:
        """Append an operator with one result.

        Args:
            operator: A builtin operator's code.
            inputs: Its inputs; None for an optional one that is left out.
            shape: The result's shape.
            name: The result's name.
            version: The operator's version.
            options: Its options object, named as in the schema with a trailing T.
            element_type: The result's type.
            quantization: What the result's codes stand for.
        """
        result = self._tensor(name, shape, element_type, 0, quantization)
        self._append(operator, inputs, [result], version, options)
        return result

    def split(self, x: Edge, sizes: Sequence[int], name: str) -> tuple[Edge, ...]:
        """Cut the last axis into parts of these sizes; parts of equal size by one operator."""
        last = len(x.shape) - 1
        shapes = [(*x.shape[:-1], size) for size in sizes]
        if len(set(sizes)) == 1 and len(sizes) in (2, 3, 4):  # what XNNPACK takes
            parts = [
                self._tensor(f"{name}/{index}", shape, ElementType.FLOAT32)
                for index, shape in enumerate(shapes)
            ]
            options = schema.SplitOptionsT(len(sizes))
            axis = self.constant(f"scalar/{last}", np.asarray(last, np.int32))
            self._append(Operator.SPLIT, [axis, x], parts, 1, options)
            return tuple(parts)
        begins = np.cumsum([0, *sizes[:-1]])
        return tuple(
            self.slice(x, last, int(begin), size, f"{name}/{index}")
            for index, (begin, size) in enumerate(zip(begins, sizes, strict=True))
        )

    def once(self, name: str, make: Callable[[], Edge]) -> Edge:
        """Return what ``make`` gave under this name the first time."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def slice(
        self,
        x: Edge,
        axis: int,
        begin: int,
        size: int,
        name: str,
        element_type: int = ElementType.FLOAT32,
    ) -> Edge:
        """Take ``size`` entries of an axis from ``begin`` on."""
        begins, sizes = [0] * len(x.shape), list(x.shape)
        begins[axis], sizes[axis] = begin, size
        return self.operator(
            Operator.SLICE,
            [x, self.integers(begins), self.integers(sizes)],
            tuple(sizes),
            name,
            options=schema.SliceOptionsT(),
            element_type=element_type,
        )

    def reshape(
        self, x: Edge, shape: Shape, name: str, element_type: int = ElementType.FLOAT32
    ) -> Edge:
        """Read the same numbers under another shape."""
        if x.shape == shape:
            return x
        if math.prod(x.shape) != math.prod(shape):
            raise ValueError(f"{name!r}: {x.shape} can not be read as {shape}")
        return self.operator(
            Operator.RESHAPE,
            [x, self.integers(shape)],
            shape,
            name,
            options=schema.ReshapeOptionsT(newShape=list(shape)),
            element_type=element_type,
        )

    def transpose(self, x: Edge, axes: Sequence[int], name: str) -> Edge:
        """Permute axes."""
        return self.operator(
            Operator.TRANSPOSE,
            [x, self.integers(axes)],
            tuple(x.shape[axis] for axis in axes),
            name,
            options=schema.TransposeOptionsT(),
        )

    def concatenate(self, parts: Sequence[Edge], name: str, axis: int = -1) -> Edge:
        """Join along an axis."""
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        options = schema.ConcatenationOptionsT(axis=axis % len(shape))
        return self.operator(Operator.CONCATENATION, parts, tuple(shape), name, options=options)

    def binary(
        self,
        operator: int,
        left: Edge,
        right: Edge,
        name: str,
        element_type: int = ElementType.FLOAT32,
    ) -> Edge:
        """Compute elementwise, shapes broadcast."""
        options = {
            Operator.ADD: schema.AddOptionsT,
            Operator.SUB: schema.SubOptionsT,
            Operator.MUL: schema.MulOptionsT,
            Operator.DIV: schema.DivOptionsT,
            Operator.MINIMUM: schema.MaximumMinimumOptionsT,
            Operator.MAXIMUM: schema.MaximumMinimumOptionsT,
        }[operator]()
        shape = np.broadcast_shapes(left.shape, right.shape)
        return self.operator(
            operator, [left, right], shape, name, options=options, element_type=element_type
        )

    def unary(self, operator: int, x: Edge, name: str) -> Edge:
        """Compute elementwise."""
        return self.operator(operator, [x], x.shape, name)

    def matrix_product(self, left: Edge, right: Edge, name: str, *, transposed: bool) -> Edge:
        """Multiply [..., M, K] by [..., K, N], or by [..., N, K] where ``transposed``."""
        columns = right.shape[-2] if transposed else right.shape[-1]
        return self.operator(
            Operator.BATCH_MATMUL,
            [left, right],
            (*left.shape[:-1], columns),
            name,
            options=schema.BatchMatMulOptionsT(adjY=transposed),
        )

    def finish(self) -> None:
        """Add the graph to the model under its signature, without what no result needs."""
        self._drop_unneeded()
        graph = schema.SubGraphT(
            tensors=self._tensors,
            inputs=[edge.index for edge in self._inputs.values()],
            outputs=[edge.index for edge in self._outputs.values()],
            operators=self._operators,
            name=self._signature,
        )
        self.model.add_graph(
            self._signature,
            graph,
            ((name, edge.index) for name, edge in self._inputs.items()),
            ((name, edge.index) for name, edge in self._outputs.items()),
        )

    def _drop_unneeded(self) -> None:
        needed = {edge.index for edge in self._outputs.values()}
        kept = []
        for operator in reversed(self._operators):
            if needed.intersection(operator.outputs):
                kept.append(operator)
                needed.update(index for index in operator.inputs if index >= 0)
        self._operators = kept[::-1]

    def _append(
        self,
        operator: int,
        inputs: Sequence[Edge | None],
        outputs: Sequence[Edge],
        version: int,
        options: Any,
    ) -> None:
        kind = 0
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            kind = getattr(schema.BuiltinOptions, name)
        self._operators.append(
            schema.OperatorT(
                opcodeIndex=self.model.operator_code(operator, version),
                inputs=[-1 if edge is None else edge.index for edge in inputs],
                outputs=[edge.index for edge in outputs],
                builtinOptionsType=kind,
                builtinOptions=options,
            )
        )

    def _tensor(
        self,
        name: str,
        shape: Shape,
        element_type: int,
        buffer: int = 0,
        quantization: schema.QuantizationParametersT | None = None,
    ) -> Edge:
        self._tensors.append(
            schema.TensorT(
                shape=list(shape),
                type=element_type,
                buffer=buffer,
                name=name,
                quantization=quantization,
                hasRank=True,
            )
        )
        return Edge(len(self._tensors) - 1, shape)

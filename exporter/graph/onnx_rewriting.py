"""Rewrites a traced graph: its matrices in a recipe's formats, its results by our names.

Workflow: the nodes are taken over one by one; a product by a constant matrix and the look-up of
token ids are lowered by ``onnx_linear.py`` instead, as in the graphs that are built here; what
nobody reads any more is left out. Weights stream into the weights file one at a time.

| what the tracer gives | what comes out |
|---|---|
| logits of all tokens, of a decoder | logits of the last token [batch, 1, words] |
| last_hidden_state | hidden_states, and mean: of the real tokens [batch, 1, features] |
| logits of a text [batch, labels] | logits [batch, 1, labels] |
| keys and values for a decoder | the same, under the same names |

`named_graph` gives a graph with the same results and the tracer's own weights, to compare with; it
leaves a decoder's logits as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto

from edgewise.common.version import VERSION
from edgewise.exporter.graph.onnx_graph import OnnxGraph, edges_read
from edgewise.exporter.graph.onnx_linear import LinearLowering
from edgewise.exporter.graph.onnx_traced import CROSS_NAME, Product, TracedGraph
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models.encoder import HIDDEN_STATES, LOGITS, MEAN
from edgewise.exporter.quantize.recipes import Recipe

LAST_HIDDEN_STATE = "last_hidden_state"
LABELS_OF_TEXT = "logits/of_text"
ATTENTION_MASK = "attention_mask"


def rewritten_graph(
    traced: TracedGraph,
    weights: WeightFile,
    recipe: Recipe,
    visited: Callable[[str], None],
) -> onnx.ModelProto:
    """Return a graph whose weights are in a recipe's formats.

    Args:
        traced: What to rewrite.
        weights: Where the weights are written.
        recipe: Formats by role.
        visited: Told the name of each matrix as it is written.
    """
    return _Rewriting(traced, weights).rewritten(recipe, visited)


def named_graph(traced: TracedGraph, weights: WeightFile) -> onnx.ModelProto:
    """Return the same computation with results by our names.

    It reads the tracer's own weights, so it belongs beside them.
    """
    return _Rewriting(traced, weights).named()


def result_names(traced: TracedGraph) -> tuple[str, ...]:
    """Return what a rewritten graph gives besides the cache."""
    if traced.cache is None and LAST_HIDDEN_STATE in traced.outputs:
        return (HIDDEN_STATES, MEAN)
    return cross_results(traced) or (LOGITS,)


def cross_results(traced: TracedGraph) -> tuple[str, ...]:
    """Return the keys and values that an encoder gives a decoder."""
    return tuple(name for name in traced.outputs if CROSS_NAME.fullmatch(name))


class _Rewriting:
    """One graph on its way."""

    def __init__(self, traced: TracedGraph, weights: WeightFile) -> None:
        self._traced = traced
        self._graph = OnnxGraph(weights)
        of_text = traced.cache is None and _rank(traced, LOGITS) == 2
        self._renamed = {LOGITS: LABELS_OF_TEXT} if of_text else {}

    def rewritten(self, recipe: Recipe, visited: Callable[[str], None]) -> onnx.ModelProto:
        traced, g = self._traced, self._graph
        lowering = LinearLowering(g, recipe)
        for node in traced.nodes:
            edge = str(node.output[0])
            if edge in traced.products:
                product = traced.products[edge]
                visited(product.matrix.name)
                self._multiply(lowering, product)
            elif edge in traced.lookups:
                visited(traced.embedding.name)
                self._look_up(lowering, node)
            else:
                self._adopt(node)
        self._declare(last_logits_only=traced.cache is not None and self._cuts_to_last())
        g.prune()
        for name in sorted({name for node in g.nodes for name in edges_read(node)}):
            if traced.constant(name) is not None:
                g.constant(name, traced.array(name))
        return g.to_model(VERSION, traced.opset)

    def named(self) -> onnx.ModelProto:
        for node in self._traced.nodes:
            self._adopt(node)
            for name in edges_read(node):
                if (proto := self._traced.constant(name)) is not None:
                    self._graph.initializer(proto)
        self._declare(last_logits_only=False)
        return self._graph.to_model(VERSION, self._traced.opset)

    def _adopt(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for edges in (copy.input, copy.output):
            edges[:] = [self._renamed.get(edge, edge) for edge in edges]
        self._graph.adopt(copy)

    def _multiply(self, lowering: LinearLowering, product: Product) -> None:
        traced, g = self._traced, self._graph
        output = self._renamed.get(product.node.output[0], product.node.output[0])
        start = len(g.nodes)
        x = str(product.node.input[0])
        if product.role == "head" and traced.cache is not None and self._cuts_to_last():
            x = self._last_token(x, f"{output}/last_token")
        axis = g.constant("axis_0", np.array([0], np.int64))
        if product.rank == 2:  # the lowering takes sequences of tokens
            x = g.node("Unsqueeze", [x, axis], f"{output}/as_tokens")
        matrix = traced.embedding if self._is_tied(product) else product.matrix
        edge = lowering.linear(x, [Weight(matrix.name, product.role, matrix)], None)
        if product.rank == 2:
            edge = g.node("Squeeze", [edge, axis], f"{output}/as_rows")
        if product.bias:
            edge = g.node("Add", [edge, product.bias], f"{output}/biased")
        g.rename(edge, output)
        g.localize(start, matrix.name.removesuffix(".weight"), output)

    def _look_up(self, lowering: LinearLowering, node: onnx.NodeProto) -> None:
        embedding = self._traced.embedding
        start = len(self._graph.nodes)
        weight = Weight(embedding.name, "embedding", embedding)
        self._graph.rename(lowering.embedding(node.input[1], weight), node.output[0])
        self._graph.localize(start, embedding.name.removesuffix(".weight"), node.output[0])

    def _is_tied(self, product: Product) -> bool:
        return product.role == "head" and self._traced.tied_head

    def _cuts_to_last(self) -> bool:
        """Whether the head can be asked for the last token alone."""
        head = self._traced.products.get(self._traced.head or "")
        return head is not None and head.rank == 3

    def _last_token(self, x: str, name: str) -> str:
        g = self._graph
        begin = g.constant("integers_-1", np.array([-1], np.int64))
        end = g.constant("integers_last", np.array([np.iinfo(np.int64).max], np.int64))
        return g.node("Slice", [x, begin, end, g.constant("one", np.array([1], np.int64))], name)

    def _declare(self, *, last_logits_only: bool) -> None:
        """Declare inputs and results, adding the nodes that give these by our names."""
        traced, g = self._traced, self._graph
        for name, value in traced.values.items():
            g.add_input(name, value.type.tensor_type.elem_type, _dimensions(value))
        if traced.cache is not None or cross_results(traced):
            for name, value in traced.outputs.items():
                dimensions = _dimensions(value)
                if name == LOGITS and last_logits_only:
                    dimensions[1] = 1
                g.add_output(name, TensorProto.FLOAT, dimensions)
            return
        if LAST_HIDDEN_STATE in traced.outputs:
            g.node("Identity", [LAST_HIDDEN_STATE], HIDDEN_STATES)
            g.mean_of_real_tokens(HIDDEN_STATES, ATTENTION_MASK, MEAN)
        if self._renamed:
            axis = g.constant("one", np.array([1], np.int64))
            g.node("Unsqueeze", [LABELS_OF_TEXT, axis], LOGITS)
        for name in result_names(traced):
            g.add_output(name, TensorProto.FLOAT, ["batch", f"{name}_tokens", f"{name}_size"])


def _dimensions(value: onnx.ValueInfoProto) -> list[str | int]:
    return [item.dim_param or item.dim_value for item in value.type.tensor_type.shape.dim]


def _rank(traced: TracedGraph, name: str) -> int | None:
    value = traced.outputs.get(name)
    return None if value is None else len(value.type.tensor_type.shape.dim)

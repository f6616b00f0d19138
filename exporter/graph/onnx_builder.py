"""The ONNX builder: lowers the op vocabulary to onnxruntime's fused operators.

Graph inputs and outputs carry the names that onnxruntime-genai uses:

| name | type | shape |
|---|---|---|
| input_ids | int64 | [batch, new tokens] |
| attention_mask | int64 | [batch, past + new tokens], 1 for real tokens, right-padded |
| past_key_values.{layer}.key / .value | float32 | [batch, key-value heads, cache, head size] |
| logits | float32 | [batch, 1, vocabulary], of each row's last real token |
| present.{layer}.key / .value | float32 | as the past; the same buffer when the runtime shares it |

Rules: nodes are named after the module of the checkpoint they come from; weights leave for the
weights file as soon as they are quantized (``onnx_linear.py``); the graph itself holds only small
constants. Operators: onnxruntime/docs/ContribOperators.md and onnx/docs/Operators.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgewise.exporter.graph.onnx_graph import CONTRIB, OnnxGraph
from edgewise.exporter.graph.onnx_linear import LinearLowering, read_vector
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.protocol import Activation, Attention, Rotary, Weight
from edgewise.exporter.quantize.recipes import Recipe

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
LOGITS = "logits"
PAST_NAMES = ("past_key_values.{layer}.key", "past_key_values.{layer}.value")
PRESENT_NAMES = ("present.{layer}.key", "present.{layer}.value")


class OnnxBuilder:
    """Fulfils ``GraphBuilder``; values are names of graph edges. ``finish`` gives the model."""

    def __init__(self, weights: WeightFile, recipe: Recipe, context_length: int) -> None:
        """Begin a graph.

        Args:
            weights: The file that takes all large tensors.
            recipe: The format of each role's weights.
            context_length: Positions for which rotary tables are stored.
        """
        self._graph = OnnxGraph(weights)
        self._linear = LinearLowering(self._graph, recipe)
        self._context_length = context_length
        self._rotary_tables: dict[Rotary, tuple[str, str]] = {}
        self._lengths: tuple[str, str] | None = None

    # Inputs and outputs

    def token_ids(self) -> str:
        """See ``GraphBuilder``."""
        self._graph.add_input(INPUT_IDS, TensorProto.INT64, ["batch", "new_tokens"])
        self._graph.add_input(ATTENTION_MASK, TensorProto.INT64, ["batch", "total_tokens"])
        return INPUT_IDS

    def output_logits(self, x: str) -> None:
        """See ``GraphBuilder``."""
        self._graph.rename(x, LOGITS)
        self._graph.add_output(LOGITS, TensorProto.FLOAT, ["batch", 1, "vocabulary"])

    def finish(self, producer_version: str) -> onnx.ModelProto:
        """Return the checked model; its weights lie in the weights file."""
        return self._graph.to_model(producer_version)

    # Operations

    def embedding(self, token_ids: str, weight: Weight) -> str:
        """See ``GraphBuilder``."""
        return self._linear.embedding(token_ids, weight)

    def linear(
        self, x: str, weights: Sequence[Weight], biases: Sequence[Weight] | None = None
    ) -> str:
        """See ``GraphBuilder``."""
        return self._linear.linear(x, weights, biases)

    def rms_norm(self, x: str, weight: Weight, epsilon: float) -> str:
        """See ``GraphBuilder``."""
        scale = self._graph.constant(weight.name, read_vector(weight))
        return self._graph.node(
            "SimplifiedLayerNormalization",
            [x, scale],
            weight.name.removesuffix(".weight"),
            axis=-1,
            epsilon=epsilon,
            stash_type=1,
        )

    def add_rms_norm(
        self, residual: str, x: str, weight: Weight, epsilon: float
    ) -> tuple[str, str]:
        """See ``GraphBuilder``; one operator gives the norm and the sum (output 3)."""
        scale = self._graph.constant(weight.name, read_vector(weight))
        name = weight.name.removesuffix(".weight")
        total = f"{name}/sum"
        self._graph.nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [x, residual, scale],
                [name, "", "", total],
                name=name,
                domain=CONTRIB,
                epsilon=epsilon,
            )
        )
        return total, name

    def attention(self, query_key_value: str, attention: Attention) -> str:
        """See ``GraphBuilder``; GroupQueryAttention rotates, appends in place and attends."""
        past = [name.format(layer=attention.layer) for name in PAST_NAMES]
        present = [name.format(layer=attention.layer) for name in PRESENT_NAMES]
        shape: list[str | int] = ["batch", attention.key_value_heads, "cache", attention.head_size]
        for name in past:
            self._graph.add_input(name, TensorProto.FLOAT, shape)
        for name in present:
            self._graph.add_output(name, TensorProto.FLOAT, shape)
        cosine, sine = self._tables(attention.rotary) if attention.rotary else ("", "")
        last_positions, total_length = self._sequence_lengths()
        output = f"layers.{attention.layer}/attention"
        self._graph.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [query_key_value, "", "", *past, last_positions, total_length, cosine, sine],
                [output, *present],
                name=output,
                domain=CONTRIB,
                num_heads=attention.heads,
                kv_num_heads=attention.key_value_heads,
                scale=attention.scale,
                do_rotary=int(attention.rotary is not None),
                rotary_interleaved=0,
            )
        )
        return output

    def gated_activation(self, gate_up: str, activation: Activation) -> str:
        """See ``GraphBuilder``; SiLU is QuickGelu with alpha 1: x * sigmoid(x)."""
        gate, up = f"{gate_up}/gate", f"{gate_up}/up"
        self._graph.nodes.append(
            helper.make_node(
                "Split", [gate_up], [gate, up], name=f"{gate_up}/split", axis=-1, num_outputs=2
            )
        )
        return self._graph.node("Mul", [self._activate(gate, activation), up], f"{gate_up}/gated")

    def last_token(self, x: str) -> str:
        """See ``GraphBuilder``.

        The index is min(T, real tokens) - 1: in a first pass rows may be right-padded, later all
        rows bring T tokens.
        """
        index = "last_token/index"
        if not self._graph.has(index):
            g = self._graph
            one = g.constant("one", np.array([1], np.int64))
            new_tokens = g.node("Shape", [INPUT_IDS], "last_token/new_tokens", start=1, end=2)
            last_new = g.node("Sub", [new_tokens, one], "last_token/last_new")
            last = g.node("Min", [self._last_position(), last_new], "last_token/last")
            shape = g.constant("last_token/shape", np.array([-1, 1, 1], np.int64))
            g.node("Reshape", [last, shape], index)
        return self._graph.node("GatherND", [x, index], f"{x}/last_token", batch_dims=1)

    # Parts

    def _activate(self, x: str, activation: Activation) -> str:
        name = f"{x}/{activation}"
        match activation:
            case "silu":
                return self._graph.node("QuickGelu", [x], name, domain=CONTRIB, alpha=1.0)
            case "relu":
                return self._graph.node("Relu", [x], name)
            case "gelu":
                return self._graph.node("Gelu", [x], name, approximate="none")
            case "gelu_tanh":
                return self._graph.node("Gelu", [x], name, approximate="tanh")

    def _tables(self, rotary: Rotary) -> tuple[str, str]:
        if rotary not in self._rotary_tables:
            cosine, sine = rotary.tables(self._context_length)
            prefix = f"rotary.{len(self._rotary_tables)}"
            self._rotary_tables[rotary] = (
                self._graph.constant(f"{prefix}.cosine", cosine),
                self._graph.constant(f"{prefix}.sine", sine),
            )
        return self._rotary_tables[rotary]

    def _last_position(self) -> str:
        """Return the edge with each row's last real position: int64 [batch]."""
        name = "attention_mask/last_position"
        if not self._graph.has(name):
            g = self._graph
            axis = g.constant("axis_1", np.array([1], np.int64))
            one = g.constant("one", np.array([1], np.int64))
            real = g.node("ReduceSum", [ATTENTION_MASK, axis], "attention_mask/real", keepdims=0)
            g.node("Sub", [real, one], name)
        return name

    def _sequence_lengths(self) -> tuple[str, str]:
        """Return the edges of each row's last position and of the longest row, both int32."""
        if self._lengths is None:
            g = self._graph
            kind = TensorProto.INT32
            last = g.node(
                "Cast", [self._last_position()], "attention_mask/last_position_int32", to=kind
            )
            total = g.node("Shape", [ATTENTION_MASK], "attention_mask/length", start=1, end=2)
            scalar = g.constant("scalar_shape", np.array([], np.int64))
            total = g.node("Reshape", [total, scalar], "attention_mask/length_scalar")
            total = g.node("Cast", [total], "attention_mask/total", to=kind)
            self._lengths = (last, total)
        return self._lengths

"""The ONNX builder of decoders: lowers the op vocabulary to onnxruntime's fused operators.

Graph inputs and outputs carry the names that onnxruntime-genai uses:

| name | type | shape |
|---|---|---|
| input_ids | int64 | [batch, new tokens] |
| inputs_embeds | float32 | [batch, new tokens, features]; in place of the ids, where asked for |
| attention_mask | int64 | [batch, past + new tokens], 1 for real tokens, right-padded |
| past_key_values.{layer}.key / .value | as kept | [batch, key-value heads, cache, head size] |
| logits | float32 | [batch, 1, vocabulary], of each row's last real token |
| logits_offsets | int64 | [1, n, 1], optional: whose logits are given, 0: the last token's |
| present.{layer}.key / .value | float32 | as the past; the same buffer when the runtime shares it |
| encoder_attention_mask | int64 | [batch, encoder tokens]; only where an encoder is attended to |
| cross_key_values.{layer}.key / .value | float32 | [batch, heads, encoder tokens, head size] |

Keys and values are kept in float32, in float16 (the operator then works on float16 as a whole, its
inputs and its result are cast) or in int8, each feature of each head in steps of its own.

Rules: nodes are named after the module of the checkpoint they come from; weights leave for the
weights file as soon as they are quantized (``onnx_linear.py``); the graph itself holds only small
constants. Operators: onnxruntime/docs/ContribOperators.md and onnx/docs/Operators.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from edgewise.exporter.graph.attention import (
    Attention,
    CacheScales,
    CrossAttention,
    RelativeBias,
    Rotary,
)
from edgewise.exporter.graph.onnx_graph import CONTRIB
from edgewise.exporter.graph.onnx_operations import (
    ATTENTION_MASK,
    CROSS_NAMES,
    INPUT_IDS,
    OnnxOperations,
)
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.weight import Weight, pack_name
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.runtime.manifest import CacheType

INPUTS_EMBEDS = "inputs_embeds"
LOGITS = "logits"
LOGITS_OFFSETS = "logits_offsets"
PAST_NAMES = ("past_key_values.{layer}.key", "past_key_values.{layer}.value")
PRESENT_NAMES = ("present.{layer}.key", "present.{layer}.value")
ENCODER_MASK = "encoder_attention_mask"
CACHE_TYPES: Mapping[CacheType, int] = MappingProxyType(
    {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8}
)

ROTATED_MULTIPLE = 16  # features; what GroupQueryAttention's kernel rotates


def _rotates_itself(head_size: int, rotary: Rotary) -> bool:
    """Tell whether GroupQueryAttention's kernel takes these heads and this rotation."""
    rotated = 2 * len(rotary.inverse_frequencies)
    return head_size % ROTATED_MULTIPLE == 0 and rotated % ROTATED_MULTIPLE == 0


class OnnxBuilder(OnnxOperations):
    """Fulfils ``GraphBuilder``; values are names of graph edges. ``finish`` gives the model."""

    def __init__(
        self,
        weights: WeightFile,
        recipe: Recipe,
        context_length: int,
        *,
        takes_embeddings: bool = False,
        cache_dtype: CacheType = "float32",
        cache_scales: Mapping[int, CacheScales] = MappingProxyType({}),
    ) -> None:
        """Begin a graph.

        Args:
            weights: The file that takes all large tensors.
            recipe: The format of each role's weights.
            context_length: Positions for which rotary tables are stored.
            takes_embeddings: Whether the graph takes the new tokens' embeddings, not their ids.
            cache_dtype: How keys and values are kept.
            cache_scales: By layer, the steps of an int8 cache.
        """
        super().__init__(weights, recipe)
        self._takes_embeddings = takes_embeddings
        self._new_tokens = INPUTS_EMBEDS if takes_embeddings else INPUT_IDS
        self._context_length = context_length
        self._cache_dtype = cache_dtype
        self._cache_scales = cache_scales
        self._rotary_tables: dict[tuple[Rotary, int], tuple[str, str]] = {}
        self._lengths: tuple[str, str] | None = None

    # Inputs and outputs

    def token_ids(self) -> str:
        """See ``Operations``."""
        self._graph.add_input(INPUT_IDS, TensorProto.INT64, ["batch", "new_tokens"])
        self._graph.add_input(ATTENTION_MASK, TensorProto.INT64, ["batch", "total_tokens"])
        return INPUT_IDS

    def embedded_tokens(self, weight: Weight, scale: float = 1.0) -> str:
        """See ``GraphBuilder``."""
        if not self._takes_embeddings:
            rows = self.embedding(self.token_ids(), weight)
            return rows if scale == 1 else self.scale(rows, scale)
        shape: list[str | int] = ["batch", "new_tokens", weight.shape[1]]
        self._graph.add_input(INPUTS_EMBEDS, TensorProto.FLOAT, shape)
        self._graph.add_input(ATTENTION_MASK, TensorProto.INT64, ["batch", "total_tokens"])
        return INPUTS_EMBEDS

    def output_logits(self, x: str) -> None:
        """See ``GraphBuilder``."""
        self._graph.rename(x, LOGITS)
        self._graph.add_output(LOGITS, TensorProto.FLOAT, ["batch", 1, "vocabulary"])

    # Operations

    def position_embedding(self, weight: Weight, offset: int) -> str:
        """See ``Operations``."""
        return self._position_rows(weight, self._query_positions(), offset)

    def attention(self, query_key_value: str, attention: Attention) -> str:
        """See ``GraphBuilder``; GroupQueryAttention rotates, appends in place and attends.

        Its kernel rotates heads of a multiple of 16 features by a multiple of 16 of them; others
        are rotated before.
        """
        g = self._graph
        name = f"layers.{attention.layer}/attention"
        kept = CACHE_TYPES[self._cache_dtype]
        # The operator takes float16 caches with float16 queries alone, others with float32.
        computed = kept if kept == TensorProto.FLOAT16 else TensorProto.FLOAT
        past = [name.format(layer=attention.layer) for name in PAST_NAMES]
        present = [name.format(layer=attention.layer) for name in PRESENT_NAMES]
        shape: list[str | int] = ["batch", attention.key_value_heads, "cache", attention.head_size]
        for edge in past:
            g.add_input(edge, kept, shape)
        for edge in present:
            g.add_output(edge, kept, shape)
        rotary = attention.rotary
        apart = rotary is not None and not _rotates_itself(attention.head_size, rotary)
        parts = [query_key_value, "", ""]
        if apart or attention.norms is not None:
            parts = self._normed_and_rotated(query_key_value, attention, rotates=apart)
        parts = [part and self._cast(part, computed) for part in parts]
        rotates_inside = rotary is not None and not apart
        cosine, sine = self._tables(rotary, computed) if rotary and rotates_inside else ("", "")
        last_positions, total_length = self._sequence_lengths()
        inputs = [*parts, *past, last_positions, total_length, cosine, sine]
        bias = ""
        if attention.relative_bias is not None:
            bias = self._cast(self._causal_bias(attention.relative_bias), computed)
        inputs += ["", bias, "", *self._step_sizes(attention.layer)]
        while not inputs[-1]:  # what is not given is left out at the end
            inputs.pop()
        quantized: dict[str, Any] = {
            "k_quant_type": "PER_CHANNEL",
            "v_quant_type": "PER_CHANNEL",
            "kv_cache_bit_width": 8,
        }
        output = name if computed == TensorProto.FLOAT else f"{name}/float16"
        g.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                inputs,
                [output, *present],
                name=output,
                domain=CONTRIB,
                num_heads=attention.heads,
                kv_num_heads=attention.key_value_heads,
                scale=attention.scale,
                do_rotary=int(rotates_inside),
                rotary_interleaved=0,
                local_window_size=self._window(attention),
                **(quantized if kept == TensorProto.INT8 else {}),
            )
        )
        if output != name:
            g.node("Cast", [output], name, to=TensorProto.FLOAT)
        return name

    def cross_attention(self, query: str, attention: CrossAttention) -> str:
        """See ``GraphBuilder``."""
        g = self._graph
        shape: list[str | int] = ["batch", attention.heads, "encoder_tokens", attention.head_size]
        key, value = (name.format(layer=attention.layer) for name in CROSS_NAMES)
        g.add_input(ENCODER_MASK, TensorProto.INT64, ["batch", "encoder_tokens"])
        g.add_input(key, TensorProto.FLOAT, shape)
        g.add_input(value, TensorProto.FLOAT, shape)
        return self._multi_head_attention(
            [query, key, value, "", self._int32_mask(ENCODER_MASK)],
            f"layers.{attention.layer}/cross_attention",
            attention.heads,
            attention.scale,
        )

    def last_token(self, x: str) -> str:
        """See ``GraphBuilder``.

        The index is min(T, real tokens) - 1: in a first pass rows may be right-padded, later all
        rows bring T tokens. Offsets from there may be given, for who checks a draft of tokens.
        """
        index = "last_token/index"
        if not self._graph.has(index):
            g = self._graph
            one = g.constant("one", np.array([1], np.int64))
            new_tokens = g.node(
                "Shape", [self._new_tokens], "last_token/new_tokens", start=1, end=2
            )
            last_new = g.node("Sub", [new_tokens, one], "last_token/last_new")
            last = g.node("Min", [self._last_position(), last_new], "last_token/last")
            shape = g.constant("last_token/shape", np.array([-1, 1, 1], np.int64))
            last = g.node("Reshape", [last, shape], "last_token/last_column")
            offsets = g.add_optional_input(
                LOGITS_OFFSETS, np.zeros((1, 1, 1), np.int64), (1, "logits", 1)
            )
            g.node("Add", [last, offsets], index)
        return self._graph.node("GatherND", [x, index], f"{x}/last_token", batch_dims=1)

    # Parts

    def _cast(self, x: str, kind: int) -> str:
        """Return float32 values in the type that the attention computes with."""
        if kind == TensorProto.FLOAT:
            return x
        name = f"{x}/float16"
        return name if self._graph.has(name) else self._graph.node("Cast", [x], name, to=kind)

    def _step_sizes(self, layer: int) -> tuple[str, ...]:
        """Return the edges with the steps of a layer's codes, none for a cache without codes."""
        if self._cache_dtype != "int8":
            return ()
        scales = self._cache_scales[layer]
        return tuple(
            self._graph.constant(f"layers.{layer}/attention.{name}_step", steps[None, :, None])
            for name, steps in (("key", scales.keys), ("value", scales.values))
        )

    def _window(self, attention: Attention) -> int:
        """Return the attribute: -1 for none, and where no sequence is longer than the window."""
        window = attention.window
        return -1 if window is None or window >= self._context_length else window

    def _normed_and_rotated(
        self, query_key_value: str, attention: Attention, *, rotates: bool
    ) -> list[str]:
        """Return queries, keys and values apart, [batch, T, heads * head size] each."""
        g, name = self._graph, f"layers.{attention.layer}/attention"
        counts = (attention.heads, attention.key_value_heads, attention.key_value_heads)
        parts = [f"{name}/{part}" for part in ("query", "key", "value")]
        sizes = np.asarray(counts, np.int64) * attention.head_size
        widths = g.constant(f"{'_'.join(map(str, sizes))}_features", sizes)
        g.nodes.append(
            helper.make_node(
                "Split", [query_key_value, widths], parts, name=f"{name}/split", axis=-1
            )
        )
        if attention.norms is not None:
            weights = (attention.norms.query, attention.norms.key)
            for index, weight in enumerate(weights):
                parts[index] = self._head_norm(
                    parts[index], weight, attention.norms.epsilon, counts[index]
                )
        if rotates and attention.rotary is not None:
            for index in (0, 1):
                parts[index] = self._rotated(
                    parts[index], attention.rotary, counts[index], attention.head_size
                )
        return parts

    def _head_norm(self, x: str, weight: Weight, epsilon: float, heads: int) -> str:
        g, size = self._graph, weight.shape[0]
        by_head = np.array([0, 0, heads, size], np.int64)
        joined = np.array([0, 0, heads * size], np.int64)
        shape = g.constant(f"heads/{heads}x{size}", by_head)
        split = g.node("Reshape", [x, shape], f"{x}/heads")
        normed = self.rms_norm(split, weight, epsilon)
        shape = g.constant(f"features/{heads * size}", joined)
        return g.node("Reshape", [normed, shape], f"{x}/normed")

    def _rotated(self, x: str, rotary: Rotary, heads: int, head_size: int) -> str:
        pairs = len(rotary.inverse_frequencies)
        return self._graph.node(
            "RotaryEmbedding",
            [x, self._query_positions(), *self._tables(rotary, TensorProto.FLOAT)],
            f"{x}/rotated",
            domain=CONTRIB,
            num_heads=heads,
            rotary_embedding_dim=2 * pairs if 2 * pairs < head_size else 0,
            interleaved=0,
        )

    def _tables(self, rotary: Rotary, kind: int) -> tuple[str, str]:
        """Return the edges with cosine and sine of each position."""
        key = (rotary, kind)
        if key not in self._rotary_tables:
            prefix = f"rotary.{len(self._rotary_tables)}"
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            cosine, sine = (
                self._graph.constant(f"{prefix}.{name}", table.astype(dtype))
                for name, table in zip(
                    ("cosine", "sine"), rotary.tables(self._context_length), strict=True
                )
            )
            self._rotary_tables[key] = (cosine, sine)
        return self._rotary_tables[key]

    def _query_positions(self) -> str:
        """Return the edge with the position of each new token: int64 [batch, T].

        A first pass begins at 0 and may be right-padded; later all rows bring T real tokens.
        """
        name = "query_positions"
        if not self._graph.has(name):
            g = self._graph
            zero = g.constant("zero", np.array(0, np.int64))
            one = g.constant("one", np.array([1], np.int64))
            scalar = g.constant("scalar_shape", np.array([], np.int64))
            new_tokens = g.node("Shape", [self._new_tokens], f"{name}/new_tokens", start=1, end=2)
            real = g.node("Add", [self._last_position(), one], f"{name}/real")
            past = g.node("Sub", [real, new_tokens], f"{name}/maybe_past")
            past = g.node("Max", [past, zero], f"{name}/past")
            past = g.node("Unsqueeze", [past, one], f"{name}/past_column")
            count = g.node("Reshape", [new_tokens, scalar], f"{name}/count")
            step = g.constant("scalar_one", np.array(1, np.int64))
            new = g.node("Range", [zero, count, step], f"{name}/new")
            g.node("Add", [past, new], name)
        return name

    def _causal_bias(self, relative: RelativeBias) -> str:
        """Return the edge with the bias of new tokens over all: [batch, heads, T, total].

        The bias depends on the distance alone, so it is looked up in a table of distances.
        """
        name = f"{pack_name([relative.weight])}/bias"
        if not self._graph.has(name):
            g = self._graph
            distances = np.arange(relative.buckets.largest_distance + 1)
            table = g.constant(f"{name}.by_distance", relative.of(-distances))
            zero = g.constant("zero", np.array(0, np.int64))
            step = g.constant("scalar_one", np.array(1, np.int64))
            largest = g.constant(f"{name}.largest", np.array(distances[-1], np.int64))
            scalar = g.constant("scalar_shape", np.array([], np.int64))
            total = g.node("Shape", [ATTENTION_MASK], f"{name}/total", start=1, end=2)
            total = g.node("Reshape", [total, scalar], f"{name}/total_scalar")
            keys = g.node("Range", [zero, total, step], f"{name}/keys")
            last_axis = g.constant("axis_-1", np.array([-1], np.int64))
            queries = g.node("Unsqueeze", [self._query_positions(), last_axis], f"{name}/queries")
            away = g.node("Sub", [queries, keys], f"{name}/away")
            away = g.node("Clip", [away, zero, largest], f"{name}/distances")
            rows = g.node("Gather", [table, away], f"{name}/rows", axis=0)
            g.node("Transpose", [rows], name, perm=[0, 3, 1, 2])
        return name

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

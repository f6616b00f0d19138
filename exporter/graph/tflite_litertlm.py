"""The graphs that LiteRT-LM runs: a cache that is updated inside, a mask from outside.

| input | type | shape |
|---|---|---|
| tokens | int32 | [1, T] |
| input_pos | int32 | [T], positions of the tokens |
| mask | float32 | [1, 1, T, S], added to scores |
| kv_cache_k_{layer} | float32 | [1, key-value heads, S, head size] |
| kv_cache_v_{layer} | float32 | [1, key-value heads, head size, S] |

Outputs are the caches under the same names with the new positions written, and in "decode" the
logits [1, 1, vocabulary]; "prefill_{T}" has none. LiteRT-LM binds one buffer as input and output,
so nothing is copied. Rule: XNNPACK does not run DYNAMIC_UPDATE_SLICE, so these graphs fall into a
partition a layer and are slower than those of ``tflite_builder.py``; they are for programs that
speak LiteRT-LM's convention.
"""

from __future__ import annotations

import numpy as np

from edgewise.exporter.graph.attention import Attention
from edgewise.exporter.graph.tflite_builder import TfliteBuilder
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_graph import Edge, ElementType, Operator
from edgewise.exporter.graph.tflite_signatures import Signature
from edgewise.exporter.graph.tflite_weights import WeightStore

KEY_CACHE, VALUE_CACHE = "kv_cache_k_{layer}", "kv_cache_v_{layer}"
SIGNATURE_TOKENS = (1, 32, 128)
TOKENS, POSITIONS, MASK = INPUTS = ("tokens", "input_pos", "mask")


class LitertLmBuilder(TfliteBuilder):
    """Fulfils ``GraphBuilder`` for one signature of a LiteRT-LM model."""

    def __init__(
        self, model: TfliteFile, weights: WeightStore, tokens: int, context_length: int
    ) -> None:
        """Begin a graph.

        Args:
            model: The file that takes graphs and arrays.
            weights: The model's weights, shared by its graphs.
            tokens: New tokens at once; 1 makes "decode".
            context_length: Positions of the cache.
        """
        name = "decode" if tokens == 1 else f"prefill_{tokens}"
        super().__init__(model, weights, Signature(tokens, context_length), context_length, name)

    def last_token(self, x: Edge) -> Edge:
        """See ``GraphBuilder``; reading a prompt has no logits, so it does not matter there."""
        return x

    def output_logits(self, x: Edge) -> None:
        """See ``GraphBuilder``."""
        if self._tokens == 1:
            shape = (1, *x.shape)
            self._graph.output("logits", self._graph.reshape(x, shape, "logits"))

    def _make_inputs(self) -> tuple[Edge, Edge]:
        tokens = self._graph.input(TOKENS, (1, self._tokens), ElementType.INT32)
        positions = self._graph.input(POSITIONS, (self._tokens,), ElementType.INT32)
        return self._integers_as(tokens, (self._tokens,), "tokens/flat"), positions

    def _make_past_mask(self) -> Edge:
        return self._graph.input(MASK, (1, 1, self._tokens, self._cache))

    def _select_last_token(self) -> None:
        return None

    def _attend(self, query: Edge, new_key: Edge, new_value: Edge, attention: Attention) -> Edge:
        g, layer = self._graph, attention.layer
        name = f"layers.{layer}/attention"
        groups, size, cache = attention.key_value_heads, attention.head_size, self._cache
        keys = g.input(KEY_CACHE.format(layer=layer), (1, groups, cache, size))
        values = g.input(VALUE_CACHE.format(layer=layer), (1, groups, size, cache))
        turned = g.transpose(new_value, (0, 1, 3, 2), f"{name}/turned_value")
        keys = self._updated(keys, new_key, self._start(2), f"{name}/keys")
        values = self._updated(values, turned, self._start(3), f"{name}/values")
        g.output(KEY_CACHE.format(layer=layer), keys)
        g.output(VALUE_CACHE.format(layer=layer), values)
        scores = g.matrix_product(query, keys, f"{name}/scores", transposed=True)
        mask = self._mask_of(attention.heads // groups, self._window(attention))
        scores = g.binary(Operator.ADD, scores, mask, f"{name}/masked")
        probabilities = self._softmax(scores, name)
        return g.matrix_product(probabilities, values, name, transposed=True)

    def _updated(self, cache: Edge, new: Edge, start: Edge, name: str) -> Edge:
        return self._graph.operator(
            Operator.DYNAMIC_UPDATE_SLICE, [cache, new, start], cache.shape, name
        )

    def _start(self, axis: int) -> Edge:
        """Make [4] int32: the first position at an axis, zeros elsewhere; once for each axis."""
        return self._graph.once(f"start_{axis}", lambda: self._make_start(axis))

    def _make_start(self, axis: int) -> Edge:
        g, name = self._graph, f"start_{axis}"
        first = g.slice(self._position, 0, 0, 1, f"{name}/position", ElementType.INT32)
        unit = np.zeros(4, np.int32)
        unit[axis] = 1
        return g.binary(
            Operator.MUL, first, g.constant(f"{name}/unit", unit), name, ElementType.INT32
        )

    def _mask_of(self, shared: int, window: int | None) -> Edge:
        """Repeat the mask for the heads that share a key: [1, 1, shared * T, S]."""
        mask = self._past_mask
        if mask is None:
            raise ValueError("these graphs always have a mask")
        if window is not None:
            return self._masked_past(mask, shared, window)
        if self._tokens == 1 or shared == 1:
            return mask
        return self._graph.once(
            f"mask_{shared}",
            lambda: self._graph.concatenate([mask] * shared, f"mask_{shared}", axis=2),
        )

    def _integers_as(self, x: Edge, shape: tuple[int, ...], name: str) -> Edge:
        return self._graph.reshape(x, shape, name, ElementType.INT32)

"""The TFLite builder of decoders: lowers the op vocabulary to primitives that XNNPACK takes.

A model file holds one graph for each `Signature`; all refer to the same weights.

| input | type | shape |
|---|---|---|
| token_ids | int32 | [T], padding behind the real ones |
| embeddings | float32 | [T, features]; in place of the ids, where asked for |
| positions | int32 | [T]: past, past + 1, ... |
| last_token | int32 | [1], which of the T is the last real one; where T > 1, but to verify |
| key_cache.{layer} | float32, int8 | [1, key-value heads, S, head size]; only where S > 0 |
| value_cache.{layer} | as the keys | as the keys |
| encoder_tokens | int32 | [1], how many of the encoder's tokens are real |
| cross_key.{layer}, cross_value.{layer} | float32 | [1, heads, encoder's tokens, head size] |

| output | type | shape |
|---|---|---|
| logits | float32 | [1, vocabulary], of the last real token; to verify [T, vocabulary] |
| new_key.{layer}, new_value.{layer} | as the cache | [1, key-value heads, T, head size] |

The cache is read, never written: what a step adds is returned, and the runtime writes it where it
belongs. Positions of the cache from ``past`` on are masked, so that what stands there is never seen
(it must be finite). Rules: all that XNNPACK does not run (look-ups, casts) stands at the beginning,
so that the rest is one partition; a cache of S positions is attended in full, whatever of it is
filled, so there is a graph for each of several S.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgewise.exporter.graph.attention import (
    Attention,
    CacheScales,
    CrossAttention,
    QueryKeyNorms,
    RelativeBias,
    Rotary,
)
from edgewise.exporter.graph.tflite_cache import KeptCache
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_graph import Edge, ElementType, Operator
from edgewise.exporter.graph.tflite_operations import (
    CROSS_NAMES,
    MASKED,
    TOKEN_IDS,
    TfliteOperations,
)
from edgewise.exporter.graph.tflite_signatures import PREFILL_TOKENS, Signature
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.graph.weight import Weight, pack_name

POSITIONS = "positions"
EMBEDDINGS = "embeddings"
LAST_TOKEN = "last_token"  # noqa: S105 - a name, no secret
LOGITS = "logits"
ENCODER_TOKENS = "encoder_tokens"


class TfliteBuilder(TfliteOperations):
    """Fulfils ``GraphBuilder`` for one signature; `finish` adds the graph to the model file."""

    def __init__(
        self,
        model: TfliteFile,
        weights: WeightStore,
        signature: Signature,
        context_length: int,
        name: str | None = None,
        *,
        encoder_tokens: int = 0,
        takes_embeddings: bool = False,
        cache_scales: Mapping[int, CacheScales] | None = None,
    ) -> None:
        """Begin a graph.

        Args:
            model: The file that takes graphs and arrays.
            weights: The model's weights, shared by its graphs.
            signature: The graph's sizes.
            context_length: Positions a sequence may have.
            name: What the graph is called; by default as the signature says.
            encoder_tokens: Tokens of the encoder's graph, padding included; 0 without one.
            takes_embeddings: Whether the graph takes the new tokens' embeddings, not their ids.
            cache_scales: By layer, the steps of an int8 cache; None for one of float32.
        """
        super().__init__(model, weights, name or signature.name, signature.tokens)
        self._encoder_tokens = encoder_tokens
        self._takes_embeddings = takes_embeddings
        self._kept = KeptCache(self._graph, cache_scales)
        self._cache = signature.cache
        # Padding behind the last real token has positions too.
        self._positions = context_length + PREFILL_TOKENS
        self._head_factors: dict[object, tuple[Edge, Edge | None]] = {}
        self._relative: dict[str, tuple[Edge | None, Edge]] = {}
        self._token_ids, self._position = self._make_inputs()
        self._past_mask = self._make_past_mask() if self._cache else None
        takes_last = self._tokens > 1 and not signature.verifies
        self._last_token = self._select_last_token() if takes_last else None
        self._encoder_mask = self._make_encoder_mask() if encoder_tokens else None

    # The vocabulary

    def token_ids(self) -> Edge:
        """See ``Operations``; one sequence, [T]."""
        if self._token_ids is None:
            raise ValueError("this graph takes embeddings, no ids")
        return self._token_ids

    def embedded_tokens(self, weight: Weight, scale: float = 1.0) -> Edge:
        """See ``GraphBuilder``; [T, D]."""
        if self._takes_embeddings:
            return self._graph.input(EMBEDDINGS, (self._tokens, weight.shape[1]))
        rows = self.embedding(self.token_ids(), weight)
        return rows if scale == 1 else self.scale(rows, scale)

    def position_embedding(self, weight: Weight, offset: int) -> Edge:
        """See ``Operations``; [T, D]."""
        return self._position_rows(weight, offset, self._positions, self._position)

    def attention(self, query_key_value: Edge, attention: Attention) -> Edge:
        """See ``GraphBuilder``.

        The heads that share a key stand below one another, [1, key-value heads, group * T, head
        size], so that no key or value is ever repeated. Scores over the cache and over the new
        tokens are two products, joined for one softmax.
        """
        g, name = self._graph, f"layers.{attention.layer}/attention"
        tokens, size = self._tokens, attention.head_size
        heads, groups = attention.heads, attention.key_value_heads
        shared = heads // groups
        rows = self._heads_first(query_key_value, heads + 2 * groups, name)
        if attention.norms is not None:
            rows = self._norm_heads(rows, attention, attention.norms, name)
        rotated = self._rotate_and_scale(rows, attention, name)
        query = g.slice(rotated, 1, 0, heads, f"{name}/query")
        query = g.reshape(query, (1, groups, shared * tokens, size), f"{name}/query_groups")
        new_key = g.slice(rotated, 1, heads, groups, f"{name}/new_key")
        new_value = g.slice(rotated, 1, heads + groups, groups, f"{name}/new_value")
        context = self._attend(query, new_key, new_value, attention)
        return self._heads_last(context, heads, size, name)

    def cross_attention(self, query: Edge, attention: CrossAttention) -> Edge:
        """See ``GraphBuilder``."""
        if self._encoder_mask is None:
            raise ValueError("this model attends to an encoder, of which no size was given")
        g, name = self._graph, f"layers.{attention.layer}/cross_attention"
        shape = (1, attention.heads, self._encoder_tokens, attention.head_size)
        key, value = (g.input(part.format(layer=attention.layer), shape) for part in CROSS_NAMES)
        rows = self._heads_first(query, attention.heads, name)
        scaled = self._scaled(rows, attention.scale, f"{name}/scaled")
        context = self._attend_to(scaled, key, value, [self._encoder_mask], name)
        return self._heads_last(context, attention.heads, attention.head_size, name)

    def last_token(self, x: Edge) -> Edge:
        """See ``GraphBuilder``; a product with a row of zeros and one 1 picks exactly."""
        if self._last_token is None:
            return x
        return self._graph.matrix_product(
            self._last_token, x, f"last_token.{x.index}", transposed=False
        )

    def output_logits(self, x: Edge) -> None:
        """See ``GraphBuilder``."""
        self._graph.output(LOGITS, x)

    # Parts

    def _attend(self, query: Edge, new_key: Edge, new_value: Edge, attention: Attention) -> Edge:
        """Attend to the cache and to what is new: [1, key-value heads, group * T, head size]."""
        g, name = self._graph, f"layers.{attention.layer}/attention"
        tokens, size = self._tokens, attention.head_size
        groups = attention.key_value_heads
        shared = attention.heads // groups
        new_key, new_value = self._kept.returned(attention.layer, new_key, new_value)
        scores = g.matrix_product(query, new_key, f"{name}/new_scores", transposed=True)
        past_bias = None
        if attention.relative_bias is not None:
            past_bias, new_bias = self._relative_biases(attention.relative_bias, attention)
            scores = g.binary(Operator.ADD, scores, new_bias, f"{name}/new_biased")
        window = self._window(attention)
        if tokens > 1:
            mask = self._causal_mask(shared, window)
            scores = g.binary(Operator.ADD, scores, mask, f"{name}/causal")
        if self._past_mask is None:
            probabilities = self._softmax(scores, name)
            context = g.matrix_product(probabilities, new_value, name, transposed=False)
        else:
            shape = (1, groups, self._cache, size)
            key_cache, value_cache = self._kept.kept(attention.layer, shape)
            past = g.matrix_product(query, key_cache, f"{name}/past_scores", transposed=True)
            mask = self._masked_past(self._past_mask, shared, window)
            past = g.binary(Operator.ADD, past, mask, f"{name}/past_masked")
            if past_bias is not None:
                past = g.binary(Operator.ADD, past, past_bias, f"{name}/past_biased")
            joined = g.concatenate([past, scores], f"{name}/scores")
            probabilities = self._softmax(joined, name)
            of_past, of_new = g.split(probabilities, (self._cache, tokens), f"{name}/parts")
            context = g.binary(
                Operator.ADD,
                g.matrix_product(of_past, value_cache, f"{name}/past", transposed=False),
                g.matrix_product(of_new, new_value, f"{name}/new", transposed=False),
                name,
            )
        return context

    def _norm_heads(self, x: Edge, attention: Attention, norms: QueryKeyNorms, name: str) -> Edge:
        """Norm queries and keys in [1, heads, T, size] by their heads, pass values."""
        g = self._graph
        heads, groups = attention.heads, attention.key_value_heads
        weights = [(norms.query, heads), (norms.key, groups)]
        table = np.concatenate(
            [np.repeat(weight.source.read()[None], count, axis=0) for weight, count in weights]
        )
        factors = g.constant(f"{name}/norms", table[None, :, None].astype(np.float32))
        both = g.slice(x, 1, 0, heads + groups, f"{name}/query_key")
        values = g.slice(x, 1, heads + groups, groups, f"{name}/values")
        unscaled = self._root_mean_square_normed(both, norms.epsilon, f"{name}/norm")
        normed = g.binary(Operator.MUL, unscaled, factors, f"{name}/normed")
        return g.concatenate([normed, values], f"{name}/normed_heads", axis=1)

    def _rotate_and_scale(self, x: Edge, attention: Attention, name: str) -> Edge:
        """Rotate queries and keys in [1, heads, T, size], scale queries, pass values.

        That is x * straight + (-second half, first half, 0) * crossed, with tables that are made
        once a graph: one multiplication for rotation and scale, and no cutting before it. The
        halves change places by a product with a matrix of ones, minus ones and zeros: exact, and
        one operator.
        """
        g, rotary = self._graph, attention.rotary
        if rotary is None and attention.scale == 1:
            return x
        straight, crossed = self._head_tables(attention)
        result = g.binary(Operator.MUL, x, straight, f"{name}/straight")
        if rotary is None or crossed is None:
            return result
        size, pairs = x.shape[-1], len(rotary.inverse_frequencies)
        exchange = np.zeros((size, size), np.float32)
        first, second = np.arange(pairs), np.arange(pairs, 2 * pairs)
        exchange[first, second], exchange[second, first] = -1, 1
        swapped = g.operator(
            Operator.FULLY_CONNECTED,
            [x, g.constant(f"exchange/{size}/{pairs}", exchange), None],
            x.shape,
            f"{name}/swapped",
            options=schema.FullyConnectedOptionsT(keepNumDims=True),
        )
        swapped = g.binary(Operator.MUL, swapped, crossed, f"{name}/crossed")
        return g.binary(Operator.ADD, result, swapped, f"{name}/rotated")

    def _head_tables(self, attention: Attention) -> tuple[Edge, Edge | None]:
        """Make the tables of `_rotate_and_scale`: [1, heads, T or 1, size] each."""
        counts = (attention.heads, attention.key_value_heads, attention.key_value_heads)
        key = (attention.rotary, counts, attention.head_size, attention.scale)
        if key not in self._head_factors:
            g, name = self._graph, f"heads.{len(self._head_factors)}"

            def by_head(query: float, keys: float, values: float, part: str) -> Edge:
                factors = np.repeat(np.asarray([query, keys, values], np.float32), counts)
                return g.constant(f"{name}/{part}", factors[None, :, None, None])

            if attention.rotary is None:
                self._head_factors[key] = (by_head(attention.scale, 1, 1, "scale"), None)
            else:
                cosine, sine = self._position_tables(attention.rotary, attention.head_size)
                scale = by_head(attention.scale, 1, 0, "rotated_scale")
                straight = g.binary(Operator.MUL, cosine, scale, f"{name}/rotated")
                passed = by_head(0, 0, 1, "passed")
                straight = g.binary(Operator.ADD, straight, passed, f"{name}/straight")
                crossed = g.binary(Operator.MUL, sine, scale, f"{name}/crossed")
                self._head_factors[key] = (straight, crossed)
        return self._head_factors[key]

    def _position_tables(self, rotary: Rotary, size: int) -> tuple[Edge, Edge]:
        """Look up (cosine, cosine, 1) and (sine, sine, 0) of the positions: [T, size] each."""
        cosine, sine = rotary.tables(self._positions)
        rest = (self._positions, size - 2 * cosine.shape[1])
        ones, zeros = np.ones(rest, np.float32), np.zeros(rest, np.float32)
        table = np.concatenate([cosine, cosine, ones, sine, sine, zeros], axis=1)
        name = f"rotary.{len(self._head_factors)}"
        rows = self._linear.table_rows(name, table, self._position)
        halves = self._graph.split(rows, (size, size), name)
        return halves[0], halves[1]

    def _make_inputs(self) -> tuple[Edge | None, Edge]:
        """Declare token ids and positions, [T] each."""
        shape = (self._tokens,)
        token_ids = None
        if not self._takes_embeddings:
            token_ids = self._graph.input(TOKEN_IDS, shape, ElementType.INT32)
        return token_ids, self._graph.input(POSITIONS, shape, ElementType.INT32)

    def _make_past_mask(self) -> Edge:
        """Make [1, 1, 1, S]: 0 below the first new position, very negative from there on."""
        g, name = self._graph, "past_mask"
        positions = self._to_float32(self._position, f"{name}/positions")
        past = g.slice(positions, 0, 0, 1, f"{name}/past")
        middles = np.arange(self._cache, dtype=np.float32) + np.float32(0.5)
        places = g.constant(f"{name}/places_{self._cache}", middles[None, None, None])
        distance = g.binary(Operator.SUB, past, places, f"{name}/distance")
        negative = g.binary(Operator.MINIMUM, distance, g.number(0), f"{name}/negative")
        return g.binary(Operator.MUL, negative, g.number(-2 * MASKED), name)

    def _make_encoder_mask(self) -> Edge:
        """Make [1, 1, 1, encoder's tokens]: 0 for real tokens, very negative for padding."""
        count = self._graph.input(ENCODER_TOKENS, (1,), ElementType.INT32)
        return self._beyond_mask(count, self._encoder_tokens, "encoder_mask")

    def _relative_biases(
        self, relative: RelativeBias, attention: Attention
    ) -> tuple[Edge | None, Edge]:
        """Make the biases over cache and over new tokens: [1, key-value heads, group * T, ...].

        The second is a constant. The first depends on the past: a look-up by distance.
        """
        name = f"{pack_name([relative.weight])}/bias"
        if name not in self._relative:
            g, tokens, groups = self._graph, self._tokens, attention.key_value_heads
            rows = attention.heads // groups * tokens
            places = np.arange(tokens)
            by_head = relative.of(places[None, :] - places[:, None]).transpose(2, 0, 1)
            new = g.constant(f"{name}/new_{tokens}", by_head.reshape(1, groups, rows, tokens))
            past = None
            if self._cache:
                looked_up = self._bias_by_distance(relative, name)
                past = g.reshape(looked_up, (1, groups, rows, self._cache), f"{name}/past")
            self._relative[name] = (past, new)
        return self._relative[name]

    def _bias_by_distance(self, relative: RelativeBias, name: str) -> Edge:
        """Look up each head's bias of each new token over the cache: [heads, T * S]."""
        g, tokens, cache = self._graph, self._tokens, self._cache
        largest = relative.buckets.largest_distance

        kind = ElementType.INT32
        column = g.reshape(self._position, (tokens, 1), f"{name}/column", kind)
        places = g.constant(f"places/{cache}", np.arange(cache, dtype=np.int32)[None])
        away = g.binary(Operator.SUB, column, places, f"{name}/away", kind)
        away = g.binary(Operator.MAXIMUM, away, g.integers([0]), f"{name}/behind", kind)
        away = g.binary(Operator.MINIMUM, away, g.integers([largest]), f"{name}/distances", kind)
        flat = g.reshape(away, (tokens * cache,), f"{name}/indices", kind)
        table = relative.of(-np.arange(largest + 1))
        rows = self._linear.table_rows(f"{name}/by_distance", table, flat)
        return g.transpose(rows, (1, 0), f"{name}/heads")

    def _select_last_token(self) -> Edge | None:
        """Make [1, T]: 1 at the last real token, 0 elsewhere."""
        g, name = self._graph, "last_token"
        index = g.input(LAST_TOKEN, (1,), ElementType.INT32)
        place = self._to_float32(index, f"{name}/index")
        places = g.constant(
            f"{name}/places_{self._tokens}", np.arange(self._tokens, dtype=np.float32)[None]
        )
        distance = g.binary(Operator.SUB, places, place, f"{name}/distance")
        distance = g.unary(Operator.ABS, distance, f"{name}/absolute")
        nearness = g.binary(Operator.SUB, g.number(1), distance, f"{name}/nearness")
        return g.binary(Operator.MAXIMUM, nearness, g.number(0), f"{name}/selection")

    def _window(self, attention: Attention) -> int | None:
        """Return how many tokens are seen; None for all, and where no sequence is longer."""
        window = attention.window
        return None if window is None or window >= self._positions else window

    def _causal_mask(self, shared: int, window: int | None) -> Edge:
        """Make [1, 1, shared * T, T]: no token sees one behind it, or before its window."""
        tokens = self._tokens
        places = np.arange(tokens)
        offsets = places[None] - places[:, None]
        hidden, name = offsets > 0, f"causal_mask/{shared}x{tokens}"
        if window is not None and window < tokens:
            hidden |= offsets <= -window
            name += f"/{window}"
        mask = np.where(hidden, np.float32(MASKED), np.float32(0))
        return self._graph.constant(name, np.tile(mask, (shared, 1))[None, None])

    def _masked_past(self, mask: Edge, shared: int, window: int | None) -> Edge:
        """Add a window to the mask of the cache: [1, 1, 1 or shared * T, S]."""
        if window is None:
            return mask
        g, name = self._graph, f"past_mask/window_{window}"
        masked = g.once(name, lambda: g.binary(Operator.ADD, self._window_mask(window), mask, name))
        if self._tokens == 1 or shared == 1:
            return masked
        return g.once(
            f"{name}/{shared}",
            lambda: g.concatenate([masked] * shared, f"{name}/{shared}", axis=2),
        )

    def _window_mask(self, window: int) -> Edge:
        """Make [1, 1, T, S]: 0 from each new token's window on, very negative before it."""
        g, name = self._graph, f"window_{window}"
        positions = self._to_float32(self._position, f"{name}/positions")
        column = g.reshape(positions, (1, 1, self._tokens, 1), f"{name}/queries")
        first = np.arange(self._cache, dtype=np.float32) + np.float32(window - 0.5)
        places = g.constant(f"{name}/places_{self._cache}", first[None, None, None])
        distance = g.binary(Operator.SUB, places, column, f"{name}/distance")
        negative = g.binary(Operator.MINIMUM, distance, g.number(0), f"{name}/negative")
        return g.binary(Operator.MUL, negative, g.number(-2 * MASKED), name)

"""The reference builder: every operation computed at once in numpy float32.

It is small, slow and meant to be obviously right. Tests hold it against transformers, and every
export holds its graph against it. Weights are read when an operation needs them and dropped after
it, so a model larger than memory still runs. Rule: all sequences of one call have the same past
length; sequences of different lengths are run one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.graph.protocol import Activation, Attention, Weight

Array = NDArray[np.float32]
HEAD_CHUNK_ROWS = 8192  # vocabulary rows multiplied at once, so that a head is never held whole


def activate(x: Array, activation: Activation) -> Array:
    """Apply an activation function elementwise, in float32."""
    result: Array
    match activation:
        case "silu":
            result = x / (1 + np.exp(-np.clip(x, -80, 80)))
        case "relu":
            result = np.maximum(x, 0)
        case "gelu_tanh":
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
            result = 0.5 * x * (1 + np.tanh(inner))
        case "gelu":
            erf = np.vectorize(math.erf, otypes=[np.float32])
            result = 0.5 * x * (1 + erf(x / math.sqrt(2)))
    return result


class NumpyCache:
    """Keys and values of every layer so far: float32 [B, key-value heads, positions, head size]."""

    def __init__(self) -> None:
        self._keys: dict[int, Array] = {}
        self._values: dict[int, Array] = {}

    @property
    def length(self) -> int:
        """Positions held (the same in every layer between two calls)."""
        return next(iter(self._keys.values())).shape[2] if self._keys else 0

    def append(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Add new positions and return all of them."""
        if layer in self._keys:
            keys = np.concatenate([self._keys[layer], keys], axis=2)
            values = np.concatenate([self._values[layer], values], axis=2)
        self._keys[layer], self._values[layer] = keys, values
        return keys, values


class NumpyBuilder:
    """Fulfils ``GraphBuilder`` by computing; the result is ``logits``."""

    def __init__(
        self,
        token_ids: NDArray[np.int64],
        cache: NumpyCache | None = None,
        *,
        last_positions: int | None = None,
    ) -> None:
        """Prepare one forward pass.

        Args:
            token_ids: int64 [B, T], the new tokens.
            cache: What earlier passes left, and this one extends; None for a first pass.
            last_positions: How many trailing positions to give logits of; None for all T.
        """
        self._token_ids = token_ids
        self._cache = cache if cache is not None else NumpyCache()
        self._past_length = self._cache.length
        self._last_positions = last_positions
        self.logits: Array = np.empty((0, 0, 0), np.float32)

    def token_ids(self) -> Array:
        """Return the ids; typed as an array of the builder, used by ``embedding`` alone."""
        return self._token_ids  # type: ignore[return-value]

    def embedding(self, token_ids: Array, weight: Weight) -> Array:
        """See ``GraphBuilder``; reads only the rows that occur."""
        unique, inverse = np.unique(token_ids, return_inverse=True)
        rows = np.concatenate([weight.source.read(int(row), int(row) + 1) for row in unique])
        looked_up: Array = rows[inverse.reshape(token_ids.shape)]
        return looked_up

    def linear(
        self, x: Array, weights: Sequence[Weight], biases: Sequence[Weight] | None = None
    ) -> Array:
        """See ``GraphBuilder``; a large matrix is read in row chunks."""
        parts = []
        for weight in weights:
            rows = weight.shape[0]
            for start in range(0, rows, HEAD_CHUNK_ROWS):
                stop = min(start + HEAD_CHUNK_ROWS, rows)
                parts.append(x @ weight.source.read(start, stop).T)
        product = np.concatenate(parts, axis=-1)
        if biases is not None:
            product += np.concatenate([bias.source.read() for bias in biases])
        return product

    def rms_norm(self, x: Array, weight: Weight, epsilon: float) -> Array:
        """See ``GraphBuilder``."""
        mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
        normed: Array = x / np.sqrt(mean_square + np.float32(epsilon)) * weight.source.read()
        return normed

    def add_rms_norm(
        self, residual: Array, x: Array, weight: Weight, epsilon: float
    ) -> tuple[Array, Array]:
        """See ``GraphBuilder``."""
        total = residual + x
        return total, self.rms_norm(total, weight, epsilon)

    def attention(self, query_key_value: Array, attention: Attention) -> Array:
        """See ``GraphBuilder``."""
        batch, new_tokens, _ = query_key_value.shape
        heads, groups = attention.heads, attention.key_value_heads
        split = query_key_value.reshape(batch, new_tokens, -1, attention.head_size)
        split = split.transpose(0, 2, 1, 3)
        query, key, value = np.split(split, [heads, heads + groups], axis=1)
        if attention.rotary is not None:
            cosine, sine = attention.rotary.tables(self._past_length + new_tokens)
            cosine, sine = cosine[self._past_length :], sine[self._past_length :]
            query, key = _rotate(query, cosine, sine), _rotate(key, cosine, sine)
        key, value = self._cache.append(attention.layer, key, value)
        key = np.repeat(key, heads // groups, axis=1)
        value = np.repeat(value, heads // groups, axis=1)
        scores = query @ key.transpose(0, 1, 3, 2) * np.float32(attention.scale)
        query_positions = self._past_length + np.arange(new_tokens)[:, None]
        future = np.arange(key.shape[2])[None, :] > query_positions
        scores = np.where(future, np.float32(-np.inf), scores)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probabilities = scores / scores.sum(axis=-1, keepdims=True)
        context: Array = (probabilities @ value).transpose(0, 2, 1, 3)
        return context.reshape(batch, new_tokens, heads * attention.head_size)

    def gated_activation(self, gate_up: Array, activation: Activation) -> Array:
        """See ``GraphBuilder``."""
        gate, up = np.split(gate_up, 2, axis=-1)
        return activate(gate, activation) * up

    def last_token(self, x: Array) -> Array:
        """See ``GraphBuilder``."""
        return x if self._last_positions is None else x[:, -self._last_positions :]

    def output_logits(self, x: Array) -> None:
        """See ``GraphBuilder``; the result stays in ``logits``."""
        self.logits = x


def _rotate(x: Array, cosine: Array, sine: Array) -> Array:
    """Rotate the leading features of each head: [B, heads, T, head size] by [T, pairs]."""
    pairs = cosine.shape[-1]
    first, second, rest = np.split(x, [pairs, 2 * pairs], axis=-1)
    return np.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1
    )

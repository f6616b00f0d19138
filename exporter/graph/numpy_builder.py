"""The reference builder of decoders: every operation computed at once in numpy float32.

It is small, slow and meant to be obviously right. Tests hold it against transformers, and every
export holds its graph against it. Weights are read when an operation needs them and dropped after
it, so a model larger than memory still runs. Rule: all sequences of one call have the same past
length; sequences of different lengths are run one by one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.graph.attention import Attention, CrossAttention
from edgewise.exporter.graph.numpy_encoder import NumpyEncoderStates
from edgewise.exporter.graph.numpy_operations import (
    Array,
    NumpyTokenOperations,
    attend,
    heads_first,
)
from edgewise.exporter.graph.weight import Weight


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


class NumpyBuilder(NumpyTokenOperations):
    """Fulfils ``GraphBuilder`` by computing; the result is ``logits``."""

    def __init__(
        self,
        new_tokens: NDArray[np.int64] | NDArray[np.float32],
        cache: NumpyCache | None = None,
        *,
        last_positions: int | None = None,
        encoder: NumpyEncoderStates | None = None,
    ) -> None:
        """Prepare one forward pass.

        Args:
            new_tokens: int64 [B, T], ids; or float32 [B, T, D], the states with which they enter
                the first layer, which the model's embedding then does not give.
            cache: What earlier passes left, and this one extends; None for a first pass.
            last_positions: How many trailing positions to give logits of; None for all T.
            encoder: What the encoder gave, for a model that has one.
        """
        self._cache = cache if cache is not None else NumpyCache()
        self._past_length = self._cache.length
        given = new_tokens.ndim == 3
        self._embeddings = new_tokens.astype(np.float32, copy=False) if given else None
        token_ids = np.zeros(new_tokens.shape[:2], np.int64) if given else new_tokens
        super().__init__(token_ids.astype(np.int64, copy=False), self._past_length)
        self._last_positions = last_positions
        self._encoder = encoder
        self.logits: Array = np.empty((0, 0, 0), np.float32)

    def embedded_tokens(self, weight: Weight, scale: float = 1.0) -> Array:
        """See ``GraphBuilder``."""
        if self._embeddings is not None:
            return self._embeddings
        return self.scale(self.embedding(self.token_ids(), weight), scale)

    def attention(self, query_key_value: Array, attention: Attention) -> Array:
        """See ``GraphBuilder``."""
        new_tokens = query_key_value.shape[1]
        heads, groups = attention.heads, attention.key_value_heads
        split = heads_first(query_key_value, attention.head_size)
        query, key, value = np.split(split, [heads, heads + groups], axis=1)
        if attention.norms is not None:
            norms = attention.norms
            query = self.rms_norm(query, norms.query, norms.epsilon)
            key = self.rms_norm(key, norms.key, norms.epsilon)
        if attention.rotary is not None:
            cosine, sine = attention.rotary.tables(self._past_length + new_tokens)
            cosine, sine = cosine[self._past_length :], sine[self._past_length :]
            query, key = _rotate(query, cosine, sine), _rotate(key, cosine, sine)
        key, value = self._cache.append(attention.layer, key, value)
        key = np.repeat(key, heads // groups, axis=1)
        value = np.repeat(value, heads // groups, axis=1)
        query_positions = self._past_length + np.arange(new_tokens)[:, None]
        offsets = np.arange(key.shape[2])[None, :] - query_positions
        hidden = offsets > 0
        if attention.window is not None:
            hidden |= offsets <= -attention.window
        bias = np.where(hidden, np.float32(-np.inf), np.float32(0))
        if attention.relative_bias is not None:
            bias = bias + attention.relative_bias.of(offsets).transpose(2, 0, 1)
        return attend(query, key, value, attention.scale, bias)

    def cross_attention(self, query: Array, attention: CrossAttention) -> Array:
        """See ``GraphBuilder``."""
        if self._encoder is None:
            raise ValueError("this model attends to an encoder, of which nothing was given")
        key, value = self._encoder.cross[attention.layer]
        heads = heads_first(query, attention.head_size)
        return attend(heads, key, value, attention.scale, self._encoder.mask_bias)

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

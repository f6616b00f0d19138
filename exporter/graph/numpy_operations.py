"""What the reference computes in encoders and decoders alike, at once, in numpy float32."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.graph.protocol import Activation
from edgewise.exporter.graph.weight import Weight

Array = NDArray[np.float32]
HEAD_CHUNK_ROWS = 8192  # vocabulary rows multiplied at once, so that a head is never held whole


def activate(x: Array, activation: Activation) -> Array:
    """Apply an activation function elementwise, in float32."""
    result: Array
    match activation:
        case "silu":
            result = x / (1 + np.exp(-np.clip(x, -80, 80)))
        case "quick_gelu":
            result = x / (1 + np.exp(-np.clip(np.float32(1.702) * x, -80, 80)))
        case "relu":
            result = np.maximum(x, 0)
        case "tanh":
            result = np.tanh(x)
        case "gelu_tanh":
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
            result = 0.5 * x * (1 + np.tanh(inner))
        case "gelu":
            erf = np.vectorize(math.erf, otypes=[np.float32])
            result = 0.5 * x * (1 + erf(x / math.sqrt(2)))
    return result


def attend(query: Array, key: Array, value: Array, scale: float, bias: Array) -> Array:
    """Attend, all of it written out.

    Args:
        query: [B, heads, T, size].
        key: [B, heads, S, size].
        value: [B, heads, S, size].
        scale: Factor on the scores.
        bias: Added to the scores; of a shape that broadcasts to [B, heads, T, S].

    Returns:
        [B, T, heads * size].
    """
    scores = query @ key.transpose(0, 1, 3, 2) * np.float32(scale) + bias
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities = scores / scores.sum(axis=-1, keepdims=True)
    context = (probabilities @ value).transpose(0, 2, 1, 3)
    joined: Array = context.reshape(*context.shape[:2], -1)
    return joined


def heads_first(x: Array, size: int) -> Array:
    """Turn [B, T, heads * size] to [B, heads, T, size]."""
    return x.reshape(*x.shape[:2], -1, size).transpose(0, 2, 1, 3)


class NumpyOperations:
    """Fulfils ``Operations`` by computing, but for learned positions."""

    def linear(
        self, x: Array, weights: Sequence[Weight], biases: Sequence[Weight] | None = None
    ) -> Array:
        """See ``Operations``; a large matrix is read in row chunks."""
        tokens = x.reshape(-1, x.shape[-1])  # one product of all sequences, not one for each
        product = np.empty((len(tokens), sum(weight.shape[0] for weight in weights)), np.float32)
        column = 0
        for weight in weights:
            rows = weight.shape[0]
            for start in range(0, rows, HEAD_CHUNK_ROWS):
                stop = min(start + HEAD_CHUNK_ROWS, rows)
                columns = slice(column + start, column + stop)
                np.matmul(tokens, weight.source.read(start, stop).T, out=product[:, columns])
            column += rows
        product = product.reshape(*x.shape[:-1], -1)
        if biases is not None:
            product += np.concatenate([bias.source.read() for bias in biases])
        return product

    def rms_norm(self, x: Array, weight: Weight, epsilon: float) -> Array:
        """See ``Operations``."""
        mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
        normed: Array = x / np.sqrt(mean_square + np.float32(epsilon)) * weight.source.read()
        return normed

    def add_rms_norm(
        self, residual: Array, x: Array, weight: Weight, epsilon: float
    ) -> tuple[Array, Array]:
        """See ``Operations``."""
        total = residual + x
        return total, self.rms_norm(total, weight, epsilon)

    def layer_norm(self, x: Array, weight: Weight, bias: Weight, epsilon: float) -> Array:
        """See ``Operations``."""
        centred = x - np.mean(x, axis=-1, keepdims=True)
        variance = np.mean(np.square(centred), axis=-1, keepdims=True)
        normed = centred / np.sqrt(variance + np.float32(epsilon))
        result: Array = normed * weight.source.read() + bias.source.read()
        return result

    def add_layer_norm(
        self, residual: Array, x: Array, weight: Weight, bias: Weight, epsilon: float
    ) -> tuple[Array, Array]:
        """See ``Operations``."""
        total = residual + x
        return total, self.layer_norm(total, weight, bias, epsilon)

    def add(self, left: Array, right: Array) -> Array:
        """See ``Operations``."""
        return left + right

    def scale(self, x: Array, factor: float) -> Array:
        """See ``Operations``."""
        return x * np.float32(factor)

    def activation(self, x: Array, activation: Activation) -> Array:
        """See ``Operations``."""
        return activate(x, activation)

    def gated_activation(self, gate_up: Array, activation: Activation) -> Array:
        """See ``Operations``."""
        gate, up = np.split(gate_up, 2, axis=-1)
        return activate(gate, activation) * up


class NumpyTokenOperations(NumpyOperations):
    """Fulfils ``TokenOperations`` by computing."""

    def __init__(self, token_ids: NDArray[np.int64], first_position: int = 0) -> None:
        """Take the ids, int64 [B, T], and the position of the first of each sequence."""
        self._token_ids = token_ids
        self._first_position = first_position

    def token_ids(self) -> Array:
        """Return the ids; typed as an array of the builder, used by ``embedding`` alone."""
        return self._token_ids  # type: ignore[return-value]

    def embedding(self, token_ids: Array, weight: Weight) -> Array:
        """See ``TokenOperations``; reads only the rows that occur."""
        unique, inverse = np.unique(token_ids, return_inverse=True)
        rows = np.concatenate([weight.source.read(int(row), int(row) + 1) for row in unique])
        looked_up: Array = rows[inverse.reshape(token_ids.shape)]
        return looked_up

    def position_embedding(self, weight: Weight, offset: int) -> Array:
        """See ``Operations``."""
        start, new_tokens = self._first_position + offset, self._token_ids.shape[1]
        if start + new_tokens > weight.shape[0]:
            raise ValueError(
                f"{self._first_position + new_tokens} tokens were given, {weight.name!r} holds "
                f"positions for {weight.shape[0] - offset}"
            )
        return weight.source.read(start, start + new_tokens)[None]

"""The reference builder of encoders: every operation computed at once in numpy float32."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.graph.attention import CrossAttention, FullAttention
from edgewise.exporter.graph.numpy_operations import (
    Array,
    NumpyTokenOperations,
    attend,
    heads_first,
)
from edgewise.exporter.graph.weight import Weight


@dataclass
class NumpyEncoderStates:
    """What a decoder needs of an encoder.

    Attributes:
        mask_bias: Added to scores: 0 for real tokens, minus infinity for padding; [B, 1, 1, S].
        cross: Keys and values by decoder layer, [B, heads, S, head size] each.
    """

    mask_bias: Array
    cross: dict[int, tuple[Array, Array]] = field(default_factory=dict)


class NumpyEncoderBuilder(NumpyTokenOperations):
    """Fulfils ``EncoderBuilder`` by computing; the results are ``outputs`` and ``states``."""

    def __init__(
        self,
        token_ids: NDArray[np.int64],
        mask: NDArray[np.int64] | None = None,
        token_types: NDArray[np.int64] | None = None,
    ) -> None:
        """Prepare one forward pass.

        Args:
            token_ids: int64 [B, T], padded on the right.
            mask: 1 for real tokens, 0 for padding, [B, T]; None: all are real.
            token_types: [B, T]; None: all are of type 0.

        Raises:
            ValueError: Padding stands before real tokens.
        """
        super().__init__(token_ids)
        self._mask = np.ones_like(token_ids) if mask is None else mask
        if (np.diff(self._mask, axis=1) > 0).any():
            raise ValueError("padding stands before real tokens; pad encoders on the right")
        self._token_types = np.zeros_like(token_ids) if token_types is None else token_types
        bias = np.where(self._mask[:, None, None] > 0, np.float32(0), np.float32(-np.inf))
        self.states = NumpyEncoderStates(bias)
        self.outputs: dict[str, Array] = {}

    def type_embedding(self, weight: Weight) -> Array:
        """See ``EncoderBuilder``."""
        table = weight.source.read()
        return table[None] if len(table) == 1 else table[self._token_types]

    def full_attention(self, query_key_value: Array, attention: FullAttention) -> Array:
        """See ``EncoderBuilder``."""
        return attend_both_ways(query_key_value, attention, self.states.mask_bias)

    def first_token(self, x: Array) -> Array:
        """See ``EncoderBuilder``."""
        return x[:, :1]

    def mean_of_tokens(self, x: Array) -> Array:
        """See ``EncoderBuilder``."""
        real = self._mask[:, :, None].astype(np.float32)
        mean: Array = (x * real).sum(axis=1, keepdims=True) / real.sum(axis=1, keepdims=True)
        return mean

    def output_cross(self, key_value: Array, attention: CrossAttention) -> None:
        """See ``EncoderBuilder``; the result stays in ``states``."""
        key, value = np.split(heads_first(key_value, attention.head_size), 2, axis=1)
        self.states.cross[attention.layer] = (key, value)

    def output(self, name: str, x: Array) -> None:
        """See ``EncoderBuilder``; the result stays in ``outputs``."""
        self.outputs[name] = x


def attend_both_ways(query_key_value: Array, attention: FullAttention, bias: Array) -> Array:
    """Attend to whole sequences.

    Args:
        query_key_value: [B, T, 3 * heads * head size].
        attention: The layer's constants.
        bias: Added to the scores; of a shape that broadcasts to [B, heads, T, T].

    Returns:
        [B, T, heads * head size].
    """
    split = heads_first(query_key_value, attention.head_size)
    query, key, value = np.split(split, 3, axis=1)
    if attention.relative_bias is not None:
        positions = np.arange(query.shape[2])
        offsets = positions[None, :] - positions[:, None]
        bias = bias + attention.relative_bias.of(offsets).transpose(2, 0, 1)
    return attend(query, key, value, attention.scale, bias)

"""The constants of a layer's attention: of a decoder, of an encoder, and of one to the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.graph.relative_positions import RelativeBuckets
from edgewise.exporter.graph.weight import Weight


@dataclass(frozen=True, eq=False)
class CacheScales:
    """What a step of the codes stands for in which a layer keeps keys and values with 8 bits.

    Attributes:
        keys: float32 [key-value heads, head size], of the keys as they are kept, rotated.
        values: float32 [key-value heads, head size].
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding in half-split order (RoFormer, arXiv 2104.09864; NeoX layout).

    Attributes:
        inverse_frequencies: One angle step in radians a position for each rotated pair; twice as
            many leading features of a head rotate, the rest pass.
        factor: On what rotates, queries and keys alike; 1 but for some long-context scalings.
    """

    inverse_frequencies: tuple[float, ...]
    factor: float = 1.0

    def tables(self, positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cosine and sine, float32 [positions, pairs], computed in float64."""
        angles = np.outer(
            np.arange(positions, dtype=np.float64),
            np.asarray(self.inverse_frequencies, dtype=np.float64),
        )
        cosine, sine = self.factor * np.cos(angles), self.factor * np.sin(angles)
        return cosine.astype(np.float32), sine.astype(np.float32)


@dataclass(frozen=True)
class RelativeBias:
    """A learned number for each head and bucket of relative positions, added to the scores.

    Attributes:
        weight: [buckets, heads]; small, and never quantized.
        buckets: Which bucket an offset falls into.
    """

    weight: Weight
    buckets: RelativeBuckets

    def of(self, offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return each head's bias, [..., heads], for offsets of key minus query, [...]."""
        return self.weight.source.read()[self.buckets.of(offsets)]


@dataclass(frozen=True)
class QueryKeyNorms:
    """An RMSNorm over each head of queries and of keys, before they rotate (arXiv 2302.05442).

    Attributes:
        query: [head size], the factors of all query heads.
        key: [head size], those of all key heads.
        epsilon: Added to the mean square.
    """

    query: Weight
    key: Weight
    epsilon: float


@dataclass(frozen=True)
class Attention:
    """One layer's causal self-attention over its cache (grouped query: arXiv 2305.13245).

    Attributes:
        layer: Index of the layer, and so of its cache.
        heads: Query heads.
        key_value_heads: Key and value heads; divides ``heads``.
        head_size: Features a head.
        scale: Factor on the scores before the softmax.
        rotary: Rotation of queries and keys by position, or None.
        relative_bias: What is added to the scores by relative position, or None.
        window: How many tokens a query sees, itself and those before it; None for all.
        norms: Of queries and keys by head, or None.
    """

    layer: int
    heads: int
    key_value_heads: int
    head_size: int
    scale: float
    rotary: Rotary | None
    relative_bias: RelativeBias | None = None
    window: int | None = None
    norms: QueryKeyNorms | None = None


@dataclass(frozen=True)
class FullAttention:
    """One layer's self-attention of an encoder: every real token sees every other.

    Attributes:
        layer: Index of the layer.
        heads: Heads of queries, keys and values.
        head_size: Features a head.
        scale: Factor on the scores before the softmax; 1 in T5.
        relative_bias: What is added to the scores by relative position, or None.
    """

    layer: int
    heads: int
    head_size: int
    scale: float
    relative_bias: RelativeBias | None = None


@dataclass(frozen=True)
class CrossAttention:
    """One decoder layer's attention to the encoder's tokens.

    Attributes:
        layer: Index of the layer.
        heads: Heads of queries, keys and values.
        head_size: Features a head.
        scale: Factor on the scores before the softmax.
    """

    layer: int
    heads: int
    head_size: int
    scale: float

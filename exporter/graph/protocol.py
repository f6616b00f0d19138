"""The op vocabulary in which every model is written once.

Workflow: a model file (``exporter/models``) calls these operations on a builder; the builder lowers
each its own way. The numpy builder computes at once and is the reference, the ONNX builder emits
onnxruntime's fused operators. Rules: an operation stands at the level at which inference engines
have kernels; a builder never knows a model, a model never names a builder's operator; weights enter
as lazy handles with a role, and only the builder reads them, one at a time.

Shapes: B sequences, T new tokens each, D features. Activations are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.quantize.streaming import WeightSource

Role = Literal["embedding", "attention", "mlp", "head", "norm", "bias"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Weight:
    """A named weight of a model and the role by which a recipe chooses its format."""

    name: str
    role: Role
    source: WeightSource

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as the checkpoint stores it."""
        return self.source.shape

    def with_role(self, role: Role) -> Weight:
        """Return the same numbers under another role (a tied head reads the embedding)."""
        return Weight(self.name, role, self.source)


def pack_name(weights: Sequence[Weight]) -> str:
    """Name a pack after its first weight and how many more follow."""
    first = weights[0].name.removesuffix(".weight")
    return first if len(weights) == 1 else f"{first}+{len(weights) - 1}"


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding in half-split order (RoFormer, arXiv 2104.09864; NeoX layout).

    Attributes:
        inverse_frequencies: One angle step in radians a position for each rotated pair; twice as
            many leading features of a head rotate, the rest pass.
    """

    inverse_frequencies: tuple[float, ...]

    def tables(self, positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cosine and sine, float32 [positions, pairs], computed in float64."""
        angles = np.outer(
            np.arange(positions, dtype=np.float64),
            np.asarray(self.inverse_frequencies, dtype=np.float64),
        )
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


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
    """

    layer: int
    heads: int
    key_value_heads: int
    head_size: int
    scale: float
    rotary: Rotary | None


class GraphBuilder(Protocol[Value]):
    """The operations a model may use; ``Value`` is whatever the builder passes between them."""

    def token_ids(self) -> Value:
        """Return the graph's input token ids, int64 [B, T]."""
        ...

    def embedding(self, token_ids: Value, weight: Weight) -> Value:
        """Look rows up: ids [B, T] and weight [vocabulary, D] give [B, T, D]."""
        ...

    def linear(
        self, x: Value, weights: Sequence[Weight], biases: Sequence[Weight] | None = None
    ) -> Value:
        """Multiply by one or several matrices at once and join the results along features.

        Args:
            x: [B, T, K].
            weights: Matrices [N_i, K]; several are packed into one product where formats allow.
            biases: As many vectors [N_i], or None.

        Returns:
            [B, T, sum of N_i].
        """
        ...

    def rms_norm(self, x: Value, weight: Weight, epsilon: float) -> Value:
        """Return x / sqrt(mean(x^2) + epsilon) * weight, over the last axis (arXiv 1910.07467)."""
        ...

    def add_rms_norm(
        self, residual: Value, x: Value, weight: Weight, epsilon: float
    ) -> tuple[Value, Value]:
        """Return (residual + x, rms_norm(residual + x))."""
        ...

    def attention(self, query_key_value: Value, attention: Attention) -> Value:
        """Rotate, append keys and values to the layer's cache, attend causally.

        Args:
            query_key_value: [B, T, (heads + 2 * key_value_heads) * head_size], in that order.
            attention: The layer's constants.

        Returns:
            [B, T, heads * head_size].
        """
        ...

    def gated_activation(self, gate_up: Value, activation: Activation) -> Value:
        """Split [B, T, 2 F] into gate and up; return activation(gate) * up, [B, T, F]."""
        ...

    def last_token(self, x: Value) -> Value:
        """Keep each sequence's last real token: [B, T, D] gives [B, 1, D].

        A builder that is asked for the logits of every position keeps them all.
        """
        ...

    def output_logits(self, x: Value) -> None:
        """Declare [B, 1 or T, vocabulary] as the result."""
        ...

"""What every decoder-only model declares, whatever its architecture.

A model file gives a ``DecoderConfiguration``, the table of its tensors and the forward pass; the
pipeline, the budget and the bundle read only these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.graph.attention import Attention, QueryKeyNorms, Rotary
from edgewise.exporter.graph.protocol import Activation
from edgewise.exporter.graph.weight import Role


class ConfigurationError(EdgewiseError):
    """A checkpoint's configuration lacks what the architecture needs, or contradicts itself."""


@dataclass(frozen=True)
class TensorSpecification:
    """One tensor that a checkpoint must hold.

    Attributes:
        shape: As the checkpoint has it.
        role: What it is used for.
        transposed: Whether it is a matrix [in, out], which is stored [out, in].
    """

    shape: tuple[int, ...]
    role: Role
    transposed: bool = False

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape in which it is written, output channels first."""
        return self.shape[::-1] if self.transposed else self.shape

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class DecoderConfiguration:
    """The constants of a decoder-only transformer.

    Attributes:
        vocabulary_size: Rows of the embedding, padding rows included.
        hidden_size: Features a token.
        layers: Transformer layers.
        heads: Query heads.
        key_value_heads: Key and value heads.
        head_size: Features a head.
        intermediate_size: Features inside the MLP.
        norm_epsilon: Added to the mean square in the norms.
        context_length: Positions the model was made for.
        rotary: Rotation of queries and keys; None where positions are learned.
        tied_head: Whether the head reads the embedding's weights.
        query_key_value_biases: Whether these projections carry biases.
        output_bias: Whether the attention's output projection carries one.
        mlp_biases: Whether the MLP's projections carry them.
        activation: Inside the MLP.
        head_bias: Whether the head carries one.
        labels: Names of the numbers that a scoring head gives, in order; empty where the head
            gives a logit for each word.
        windows: How many tokens each layer's queries see, None for all; empty where no layer has a
            window.
        window_rotary: The rotation in layers with a window, where it is another one.
        query_key_norms: Whether heads of queries and keys are normed.
        query_scale: Factor on the scores; None for head_size^-0.5.
        embedding_scale: Factor on the embedding's rows.
        norm_offset: What is added to the weights of norms.
        packed_projections: Whether query, key and value are one matrix, and gate and up another.
        transposed_weights: Whether matrices are stored [in, out].
    """

    vocabulary_size: int
    hidden_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    intermediate_size: int
    norm_epsilon: float
    context_length: int
    rotary: Rotary | None
    tied_head: bool
    query_key_value_biases: bool = False
    output_bias: bool = False
    mlp_biases: bool = False
    activation: Activation = "silu"
    head_bias: bool = False
    labels: tuple[str, ...] = ()
    windows: tuple[int | None, ...] = ()
    window_rotary: Rotary | None = None
    query_key_norms: bool = False
    query_scale: float | None = None
    embedding_scale: float = 1.0
    norm_offset: float = 0.0
    packed_projections: bool = False
    transposed_weights: bool = False

    def __post_init__(self) -> None:
        if self.heads % self.key_value_heads:
            raise ConfigurationError(
                f"{self.heads} query heads can not share {self.key_value_heads} key-value heads: "
                "num_attention_heads must be a multiple of num_key_value_heads in config.json"
            )

    @property
    def outputs(self) -> int:
        """How many numbers the head gives for a position."""
        return len(self.labels) or self.vocabulary_size

    def attention(self, layer: int, norms: QueryKeyNorms | None = None) -> Attention:
        """Return the constants of a layer's self-attention."""
        window = self.windows[layer] if self.windows else None
        windowed = window is not None and self.window_rotary is not None
        return Attention(
            layer=layer,
            heads=self.heads,
            key_value_heads=self.key_value_heads,
            head_size=self.head_size,
            scale=self.head_size**-0.5 if self.query_scale is None else self.query_scale,
            rotary=self.window_rotary if windowed else self.rotary,
            window=window,
            norms=norms,
        )


def required(config: Mapping[str, Any], name: str) -> Any:
    """Return a configuration value that the architecture can not do without.

    Raises:
        ConfigurationError: It is absent or null.
    """
    value = config.get(name)
    if value is None:
        raise ConfigurationError(
            f"config.json of this {config.get('model_type')!r} checkpoint lacks {name!r}; "
            "take the file that came with the weights"
        )
    return value

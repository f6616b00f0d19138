"""CLIP's vision transformer, as the tower of vision-language models (arXiv 2103.00020).

Squares of an image and a learned row before them, learned positions, a norm, then pre-norm blocks
with quick GELU. A tower stops at the layer whose states its projector was trained on, mostly the
last but one, without CLIP's own last norm, and mostly gives the squares alone. Order of this file:
configuration, tensors, forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgewise.exporter.graph.attention import FullAttention
from edgewise.exporter.graph.protocol import Activation, ImageBuilder, Value
from edgewise.exporter.graph.weight import Role, Weight
from edgewise.exporter.models.decoder import ConfigurationError, TensorSpecification
from edgewise.exporter.models.encoder import activation_of

COLOURS = 3
# A square's numbers are filled up to a multiple of this, so that every block format divides them.
PATCH_FEATURES_MULTIPLE = 128
QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj")
DEFAULT_LAYER = -2  # of the states, what LLaVA takes


@dataclass(frozen=True)
class VisionConfiguration:
    """The constants of a tower.

    Attributes:
        image_size: Pixels of an image's sides.
        patch_size: Pixels of a square's sides.
        hidden_size: Features a token.
        layers: Transformer layers that are computed; the checkpoint may have more.
        heads: Heads of queries, keys and values.
        intermediate_size: Features inside the MLP.
        norm_epsilon: Added to the variance in the norms.
        activation: Inside the MLP.
        keeps_first: Whether the learned row before the squares is given with them.
    """

    image_size: int
    patch_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    norm_epsilon: float
    activation: Activation
    keeps_first: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads:
            raise ConfigurationError(
                f"{self.hidden_size} features can not be split into {self.heads} heads: hidden_size"
                " must be a multiple of num_attention_heads in the vision tower's configuration"
            )
        if self.image_size % self.patch_size:
            raise ConfigurationError(
                f"an image of {self.image_size} pixels can not be cut into squares of "
                f"{self.patch_size}: image_size must be a multiple of patch_size"
            )

    @property
    def squares(self) -> int:
        """Squares of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        """Vectors that stand for an image."""
        return self.squares + self.keeps_first

    @property
    def patch_features(self) -> int:
        """Numbers of a square, filled up."""
        numbers = COLOURS * self.patch_size**2
        return -(-numbers // PATCH_FEATURES_MULTIPLE) * PATCH_FEATURES_MULTIPLE


def read_configuration(config: Mapping[str, Any], state_layer: int) -> VisionConfiguration:
    """Read a Hugging Face ``CLIPVisionConfig``; what it leaves out is CLIP's own default.

    Args:
        config: Of the tower.
        state_layer: Index into all states, those before the first layer among them.

    Raises:
        ConfigurationError: A value asks for what this architecture does not have.
    """
    colours = int(config.get("num_channels", COLOURS))
    if colours != COLOURS:
        raise ConfigurationError(f"the vision tower takes {colours} colours; known is {COLOURS}")
    layers = int(config.get("num_hidden_layers", 12))
    computed = state_layer if state_layer >= 0 else layers + 1 + state_layer
    if not 1 <= computed <= layers:
        raise ConfigurationError(
            f"the vision tower's states {state_layer} were asked for; it has {layers} layers"
        )
    return VisionConfiguration(
        image_size=int(config.get("image_size", 224)),
        patch_size=int(config.get("patch_size", 32)),
        hidden_size=int(config.get("hidden_size", 768)),
        layers=computed,
        heads=int(config.get("num_attention_heads", 12)),
        intermediate_size=int(config.get("intermediate_size", 3072)),
        norm_epsilon=float(config.get("layer_norm_eps", 1e-5)),
        activation=activation_of(config, "hidden_act", "quick_gelu"),
    )


def vision_tensors(c: VisionConfiguration, prefix: str) -> dict[str, TensorSpecification]:
    """List the tensors that a tower's computed layers read, names behind a prefix."""
    width = c.hidden_size
    embeddings = f"{prefix}embeddings."
    table = {
        f"{embeddings}class_embedding": TensorSpecification((width,), "position"),
        f"{embeddings}patch_embedding.weight": TensorSpecification(
            (width, COLOURS, c.patch_size, c.patch_size), "mlp"
        ),
        f"{embeddings}position_embedding.weight": TensorSpecification(
            (c.squares + 1, width), "position"
        ),
    }

    def matrix(name: str, rows: int, columns: int, role: Role) -> None:
        table[f"{name}.weight"] = TensorSpecification((rows, columns), role)
        table[f"{name}.bias"] = TensorSpecification((rows,), "bias")

    def norm(name: str) -> None:
        table[f"{name}.weight"] = TensorSpecification((width,), "norm")
        table[f"{name}.bias"] = TensorSpecification((width,), "bias")

    norm(f"{prefix}pre_layrnorm")
    for layer in range(c.layers):
        block = f"{prefix}encoder.layers.{layer}"
        norm(f"{block}.layer_norm1")
        for name in (*QUERY_KEY_VALUE, "out_proj"):
            matrix(f"{block}.self_attn.{name}", width, width, "attention")
        norm(f"{block}.layer_norm2")
        matrix(f"{block}.mlp.fc1", c.intermediate_size, width, "mlp")
        matrix(f"{block}.mlp.fc2", width, c.intermediate_size, "mlp")
    return table


def is_unread(name: str) -> bool:
    """Tell whether a name behind the prefix belongs to what a tower leaves out.

    These are the layers behind the last computed one, CLIP's last norm, and stored positions.
    """
    return (
        name.startswith(("encoder.layers.", "post_layernorm.")) or name == "embeddings.position_ids"
    )


def vision_states(
    builder: ImageBuilder[Value],
    c: VisionConfiguration,
    weight: Callable[[str], Weight],
    prefix: str,
) -> Value:
    """Describe the tower: the graph's images to a vector for each square, [B, T, D]."""

    def linear(x: Value, *names: str) -> Value:
        return builder.linear(
            x,
            [weight(f"{name}.weight") for name in names],
            [weight(f"{name}.bias") for name in names],
        )

    def norm(x: Value, name: str) -> Value:
        return builder.layer_norm(
            x, weight(f"{name}.weight"), weight(f"{name}.bias"), c.norm_epsilon
        )

    def sum_and_norm(residual: Value, x: Value, name: str) -> tuple[Value, Value]:
        return builder.add_layer_norm(
            residual, x, weight(f"{name}.weight"), weight(f"{name}.bias"), c.norm_epsilon
        )

    embeddings = f"{prefix}embeddings."
    head_size = c.hidden_size // c.heads
    squares = builder.image_patches(c.image_size, c.patch_size, c.patch_features)
    filters = weight(f"{embeddings}patch_embedding.weight").matrix(c.patch_features)
    hidden = builder.prepend(
        builder.linear(squares, [filters]), weight(f"{embeddings}class_embedding")
    )
    positions = builder.position_embedding(weight(f"{embeddings}position_embedding.weight"), 0)
    hidden = norm(builder.add(hidden, positions), f"{prefix}pre_layrnorm")
    normed = norm(hidden, f"{prefix}encoder.layers.0.layer_norm1")
    for layer in range(c.layers):
        block = f"{prefix}encoder.layers.{layer}"
        packed = linear(normed, *(f"{block}.self_attn.{part}" for part in QUERY_KEY_VALUE))
        context = builder.full_attention(
            packed, FullAttention(layer, c.heads, head_size, head_size**-0.5)
        )
        if layer == c.layers - 1 and not c.keeps_first:
            # Nothing after the last attention mixes tokens: the first is not needed any more.
            context, hidden = builder.later_tokens(context), builder.later_tokens(hidden)
        attended = linear(context, f"{block}.self_attn.out_proj")
        hidden, normed = sum_and_norm(hidden, attended, f"{block}.layer_norm2")
        inner = builder.activation(linear(normed, f"{block}.mlp.fc1"), c.activation)
        outer = linear(inner, f"{block}.mlp.fc2")
        if layer == c.layers - 1:
            return builder.add(hidden, outer)
        following = f"{prefix}encoder.layers.{layer + 1}.layer_norm1"
        hidden, normed = sum_and_norm(hidden, outer, following)
    raise ValueError("a tower has at least one layer")

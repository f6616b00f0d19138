"""``model_type: t5``: T5, T5 v1.1, Flan-T5, UL2, FLAME.

Pre-norm blocks with RMSNorm, unscaled attention with a learned bias for each bucket of relative
positions (arXiv 1910.10683), without any bias in products. Each side's first layer holds the bias
of all its layers. Version 1.0 has a ReLU MLP and a head tied to the embedding, before which states
are multiplied by hidden_size^-0.5; version 1.1 has a gated MLP and a head of its own (arXiv
2002.05202). Activations are float32 in every builder, so that what the MLP's second product gives
may exceed what float16 holds, as it does in large models. Order of this file: configuration,
tensors, encoder, decoder, the parts of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from edgewise.exporter.graph.attention import Attention, CrossAttention, FullAttention, RelativeBias
from edgewise.exporter.graph.protocol import EncoderBuilder, GraphBuilder, Operations, Value
from edgewise.exporter.graph.relative_positions import RelativeBuckets
from edgewise.exporter.graph.weight import Role, Weight
from edgewise.exporter.models.decoder import ConfigurationError, TensorSpecification, required
from edgewise.exporter.models.encoder import activation_of
from edgewise.exporter.models.encoder_decoder import ENCODER_STATES, EncoderDecoderConfiguration

FAMILY = "encoder_decoder"
EMBEDDING = "shared.weight"
HEAD = "lm_head.weight"
QUERY_KEY_VALUE = ("q", "k", "v")
DEFAULT_CONTEXT = 512  # tokens; what T5 was trained with where the configuration does not say


def configuration(config: Mapping[str, Any]) -> EncoderDecoderConfiguration:
    """Read a Hugging Face ``T5Config``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    projection = str(config.get("feed_forward_proj", "relu"))
    gated = projection.startswith("gated-")
    activation = projection.removeprefix("gated-")
    if projection == "gated-gelu":
        activation = "gelu_new"  # the name that T5 v1.1 was published with
    hidden_size = int(required(config, "d_model"))
    layers = int(required(config, "num_layers"))
    # transformers 5 writes that every T5 ties its head, and keeps the truth under another name.
    tied = bool(config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True)))
    return EncoderDecoderConfiguration(
        vocabulary_size=int(required(config, "vocab_size")),
        hidden_size=hidden_size,
        encoder_layers=layers,
        decoder_layers=int(config.get("num_decoder_layers") or layers),
        heads=int(required(config, "num_heads")),
        head_size=int(required(config, "d_kv")),
        intermediate_size=int(required(config, "d_ff")),
        norm_epsilon=float(config.get("layer_norm_epsilon", 1e-6)),
        context_length=int(config.get("n_positions") or DEFAULT_CONTEXT),
        relative_buckets=_checked_buckets(config),
        largest_distance=int(config.get("relative_attention_max_distance", 128)),
        activation=activation_of({"feed_forward_proj": activation}, "feed_forward_proj", "relu"),
        gated_mlp=gated,
        tied_head=tied,
        head_scale=hidden_size**-0.5 if tied else 1.0,
        start_token_id=int(config.get("decoder_start_token_id", config.get("pad_token_id", 0))),
    )


def tensors(configuration: EncoderDecoderConfiguration) -> dict[str, TensorSpecification]:
    """List every tensor of the checkpoint with its shape and role."""
    c = configuration
    inner, width = c.heads * c.head_size, c.hidden_size
    table = {EMBEDDING: TensorSpecification((c.vocabulary_size, width), "embedding")}

    def matrix(name: str, rows: int, columns: int, role: Role) -> None:
        table[f"{name}.weight"] = TensorSpecification((rows, columns), role)

    def norm(name: str) -> None:
        table[f"{name}.weight"] = TensorSpecification((width,), "norm")

    def attention(name: str) -> None:
        for part in QUERY_KEY_VALUE:
            matrix(f"{name}.{part}", inner, width, "attention")
        matrix(f"{name}.o", width, inner, "attention")

    for side, layers in (("encoder", c.encoder_layers), ("decoder", c.decoder_layers)):
        for layer in range(layers):
            block = f"{side}.block.{layer}.layer"
            attention(f"{block}.0.SelfAttention")
            norm(f"{block}.0.layer_norm")
            if side == "decoder":
                attention(f"{block}.1.EncDecAttention")
                norm(f"{block}.1.layer_norm")
            last = f"{block}.{2 if side == 'decoder' else 1}"
            for name in _inner_names(c):
                matrix(f"{last}.DenseReluDense.{name}", c.intermediate_size, width, "mlp")
            matrix(f"{last}.DenseReluDense.wo", width, c.intermediate_size, "mlp")
            norm(f"{last}.layer_norm")
        shape = (c.relative_buckets, c.heads)
        table[_relative_name(side)] = TensorSpecification(shape, "position")
        norm(f"{side}.final_layer_norm")
    if not c.tied_head:
        matrix(HEAD.removesuffix(".weight"), c.vocabulary_size, width, "head")
    return table


def ignored(name: str) -> bool:
    """Tell whether a checkpoint may hold this tensor although nothing reads it.

    Both sides may store the embedding again, a tied head likewise, and old checkpoints hold a bias
    of relative positions for cross-attention, which has none.
    """
    return name in (
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        HEAD,
    )


def encode(
    builder: EncoderBuilder[Value],
    configuration: EncoderDecoderConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe the encoder: token ids to states, and every decoder layer's keys and values."""
    c = configuration
    side = _Side("encoder", builder, c, weight)
    relative = _relative_bias(c, "encoder", weight)
    hidden = builder.embedding(builder.token_ids(), weight(EMBEDDING))
    normed = side.norm(hidden)
    for layer in range(c.encoder_layers):
        self_attention = f"encoder.block.{layer}.layer.0.SelfAttention"
        context = builder.full_attention(
            side.products(normed, self_attention, QUERY_KEY_VALUE),
            FullAttention(layer, c.heads, c.head_size, 1.0, relative),
        )
        hidden, normed = side.attended(hidden, context, self_attention, layer, part=1)
        hidden, normed = side.mlp(hidden, normed, layer, part=1)
    builder.output(ENCODER_STATES, normed)
    for layer in range(c.decoder_layers):
        name = f"decoder.block.{layer}.layer.1.EncDecAttention"
        packed = side.products(normed, name, ("k", "v"))
        builder.output_cross(packed, CrossAttention(layer, c.heads, c.head_size, 1.0))


def decode(
    builder: GraphBuilder[Value],
    configuration: EncoderDecoderConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe one pass of the decoder: token ids to logits, the cache extended."""
    c = configuration
    side = _Side("decoder", builder, c, weight)
    relative = _relative_bias(c, "decoder", weight)
    hidden = builder.embedded_tokens(weight(EMBEDDING))
    normed = side.norm(hidden)
    for layer in range(c.decoder_layers):
        self_attention = f"decoder.block.{layer}.layer.0.SelfAttention"
        context = builder.attention(
            side.products(normed, self_attention, QUERY_KEY_VALUE),
            Attention(layer, c.heads, c.heads, c.head_size, 1.0, None, relative),
        )
        if layer + 1 == c.decoder_layers:
            # Nothing after the last self-attention mixes positions.
            context, hidden = builder.last_token(context), builder.last_token(hidden)
        hidden, normed = side.attended(hidden, context, self_attention, layer, part=1)
        cross_attention = f"decoder.block.{layer}.layer.1.EncDecAttention"
        context = builder.cross_attention(
            side.products(normed, cross_attention, ("q",)),
            CrossAttention(layer, c.heads, c.head_size, 1.0),
        )
        hidden, normed = side.attended(hidden, context, cross_attention, layer, part=2)
        hidden, normed = side.mlp(hidden, normed, layer, part=2)
    if c.head_scale != 1:
        normed = builder.scale(normed, c.head_scale)
    head = weight(EMBEDDING).with_role("head") if c.tied_head else weight(HEAD)
    builder.output_logits(builder.linear(normed, [head]))


@dataclass(frozen=True)
class _Side(Generic[Value]):
    """The parts of one side's layers: each takes normed states, and norms for the next."""

    name: str
    builder: Operations[Value]
    configuration: EncoderDecoderConfiguration
    weight: Callable[[str], Weight]

    def norm(self, hidden: Value) -> Value:
        """Norm for the first layer."""
        epsilon = self.configuration.norm_epsilon
        return self.builder.rms_norm(hidden, self._norm_weight(0, 0), epsilon)

    def products(self, x: Value, block: str, names: tuple[str, ...]) -> Value:
        return self.builder.linear(x, [self.weight(f"{block}.{name}.weight") for name in names])

    def attended(
        self, hidden: Value, context: Value, block: str, layer: int, *, part: int
    ) -> tuple[Value, Value]:
        """Project what attention gave, add it, norm for a part of the same layer."""
        projected = self.products(context, block, ("o",))
        return self._add(hidden, projected, self._norm_weight(layer, part))

    def mlp(self, hidden: Value, normed: Value, layer: int, *, part: int) -> tuple[Value, Value]:
        """Run the MLP, add what it gave, norm for the next layer or the result."""
        c, block = self.configuration, f"{self.name}.block.{layer}.layer.{part}.DenseReluDense"
        inner = self.products(normed, block, _inner_names(c))
        if c.gated_mlp:
            inner = self.builder.gated_activation(inner, c.activation)
        else:
            inner = self.builder.activation(inner, c.activation)
        outer = self.products(inner, block, ("wo",))
        return self._add(hidden, outer, self._norm_weight(layer + 1, 0))

    def _add(self, hidden: Value, x: Value, norm: Weight) -> tuple[Value, Value]:
        return self.builder.add_rms_norm(hidden, x, norm, self.configuration.norm_epsilon)

    def _norm_weight(self, layer: int, part: int) -> Weight:
        c = self.configuration
        if layer == (c.encoder_layers if self.name == "encoder" else c.decoder_layers):
            return self.weight(f"{self.name}.final_layer_norm.weight")
        return self.weight(f"{self.name}.block.{layer}.layer.{part}.layer_norm.weight")


def _inner_names(c: EncoderDecoderConfiguration) -> tuple[str, ...]:
    return ("wi_0", "wi_1") if c.gated_mlp else ("wi",)


def _relative_name(side: str) -> str:
    return f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def _relative_bias(
    c: EncoderDecoderConfiguration, side: str, weight: Callable[[str], Weight]
) -> RelativeBias:
    buckets = RelativeBuckets(c.relative_buckets, c.largest_distance, side == "encoder")
    return RelativeBias(weight(_relative_name(side)), buckets)


def _checked_buckets(config: Mapping[str, Any]) -> int:
    count = int(config.get("relative_attention_num_buckets", 32))
    largest = int(config.get("relative_attention_max_distance", 128))
    if count % 4 or count < 4 or largest <= count // 2:
        raise ConfigurationError(
            f"{count} buckets of relative positions up to a distance of {largest} can not be made; "
            "relative_attention_num_buckets is a multiple of 4 and "
            "relative_attention_max_distance larger than half of it"
        )
    return count

"""``model_type: bart``: BART, and translators of its shape (SLaDe).

Post-norm layers with biases on both sides, learned positions that begin at row 2 of their table, a
norm of the embedded tokens, and a head tied to the embedding with a bias of its own (arXiv
1910.13461). Order of this file: configuration, tensors, encoder, decoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from edgewise.exporter.graph.attention import Attention, CrossAttention, FullAttention
from edgewise.exporter.graph.derived_weights import FlatOf
from edgewise.exporter.graph.protocol import EncoderBuilder, GraphBuilder, Value
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models.decoder import ConfigurationError, TensorSpecification, required
from edgewise.exporter.models.encoder import activation_of
from edgewise.exporter.models.encoder_decoder import ENCODER_STATES, EncoderDecoderConfiguration
from edgewise.exporter.models.post_norm import (
    AttentionNames,
    MlpNames,
    PostNormLayers,
    TensorTable,
    encoder_layer,
)

FAMILY = "encoder_decoder"
ARCHITECTURE = "BartForConditionalGeneration"
EMBEDDING = "model.shared.weight"
HEAD = "lm_head.weight"
LOGITS_BIAS = "final_logits_bias"
POSITION_OFFSET = 2
NORM_EPSILON = 1e-5  # PyTorch's default; the configuration does not hold it

_QUERY, _KEY, _VALUE, _OUTPUT = "q_proj", "k_proj", "v_proj", "out_proj"
SELF_ATTENTION = AttentionNames(
    (f"self_attn.{_QUERY}", f"self_attn.{_KEY}", f"self_attn.{_VALUE}"),
    f"self_attn.{_OUTPUT}",
    "self_attn_layer_norm",
)
CROSS_ATTENTION = AttentionNames(
    (f"encoder_attn.{_QUERY}", f"encoder_attn.{_KEY}", f"encoder_attn.{_VALUE}"),
    f"encoder_attn.{_OUTPUT}",
    "encoder_attn_layer_norm",
)
MLP = MlpNames("fc1", "fc2", "final_layer_norm")


def configuration(config: Mapping[str, Any]) -> EncoderDecoderConfiguration:
    """Read a Hugging Face ``BartConfig``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    architecture = (config.get("architectures") or [ARCHITECTURE])[0]
    if architecture != ARCHITECTURE:
        raise ConfigurationError(f"this checkpoint is a {architecture}; known is {ARCHITECTURE}")
    hidden_size = int(required(config, "d_model"))
    heads = _of_both_sides(config, "attention_heads")
    if hidden_size % heads:
        raise ConfigurationError(
            f"{hidden_size} features can not be split into {heads} heads: d_model must be a "
            "multiple of encoder_attention_heads in config.json"
        )
    return EncoderDecoderConfiguration(
        vocabulary_size=int(required(config, "vocab_size")),
        hidden_size=hidden_size,
        encoder_layers=int(required(config, "encoder_layers")),
        decoder_layers=int(required(config, "decoder_layers")),
        heads=heads,
        head_size=hidden_size // heads,
        intermediate_size=_of_both_sides(config, "ffn_dim"),
        norm_epsilon=NORM_EPSILON,
        context_length=int(required(config, "max_position_embeddings")),
        activation=activation_of(config, "activation_function", "gelu"),
        tied_head=bool(config.get("tie_word_embeddings", True)),
        start_token_id=int(config.get("decoder_start_token_id", 2)),
        forced_first_token_id=config.get("forced_bos_token_id"),
        forced_last_token_id=config.get("forced_eos_token_id"),
        position_offset=POSITION_OFFSET,
        embedding_scale=math.sqrt(hidden_size) if config.get("scale_embedding") else 1.0,
    )


def tensors(configuration: EncoderDecoderConfiguration) -> dict[str, TensorSpecification]:
    """List every tensor of the checkpoint with its shape and role."""
    c = configuration
    width = c.hidden_size
    table = TensorTable()
    table[EMBEDDING] = TensorSpecification((c.vocabulary_size, width), "embedding")
    for side, layers in (("encoder", c.encoder_layers), ("decoder", c.decoder_layers)):
        positions = (c.context_length + c.position_offset, width)
        table[_positions(side)] = TensorSpecification(positions, "position")
        table.add_norm(f"model.{side}.layernorm_embedding", width)
        for layer in range(layers):
            name = f"model.{side}.layers.{layer}"
            SELF_ATTENTION.add_to(table, name, width)
            if side == "decoder":
                CROSS_ATTENTION.add_to(table, name, width)
            MLP.add_to(table, name, width, c.intermediate_size)
    if not c.tied_head:
        table[HEAD] = TensorSpecification((c.vocabulary_size, width), "head")
    table[LOGITS_BIAS] = TensorSpecification((1, c.vocabulary_size), "bias")
    return table


def ignored(name: str) -> bool:
    """Tell whether a checkpoint may hold this tensor although nothing reads it.

    Both sides may store the embedding again, a tied head likewise, and old ones their version.
    """
    return name == HEAD or name in {
        f"model.{side}.{part}"
        for side in ("encoder", "decoder")
        for part in ("embed_tokens.weight", "version")
    }


def encode(
    builder: EncoderBuilder[Value],
    configuration: EncoderDecoderConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe the encoder: token ids to states, and every decoder layer's keys and values."""
    c = configuration
    layers = PostNormLayers(builder, weight, c.norm_epsilon)
    embedded = builder.embedding(builder.token_ids(), weight(EMBEDDING))
    hidden = _positioned(layers, embedded, c, "encoder")
    for layer in range(c.encoder_layers):
        hidden = encoder_layer(
            builder,
            layers,
            hidden,
            f"model.encoder.layers.{layer}",
            (SELF_ATTENTION, MLP),
            FullAttention(layer, c.heads, c.head_size, c.head_size**-0.5),
            c.activation,
        )
    builder.output(ENCODER_STATES, hidden)
    _, key, value = CROSS_ATTENTION.query_key_value
    for layer in range(c.decoder_layers):
        name = f"model.decoder.layers.{layer}"
        packed = layers.linear(hidden, f"{name}.{key}", f"{name}.{value}")
        builder.output_cross(packed, _cross_attention(c, layer))


def decode(
    builder: GraphBuilder[Value],
    configuration: EncoderDecoderConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe one pass of the decoder: token ids to logits, the cache extended."""
    c = configuration
    layers = PostNormLayers(builder, weight, c.norm_epsilon)
    hidden = _positioned(layers, builder.embedded_tokens(weight(EMBEDDING)), c, "decoder")
    query, _, _ = CROSS_ATTENTION.query_key_value
    for layer in range(c.decoder_layers):
        name = f"model.decoder.layers.{layer}"
        context = builder.attention(
            layers.query_key_value(hidden, name, SELF_ATTENTION),
            Attention(layer, c.heads, c.heads, c.head_size, c.head_size**-0.5, None),
        )
        if layer + 1 == c.decoder_layers:
            # Nothing after the last self-attention mixes positions.
            context, hidden = builder.last_token(context), builder.last_token(hidden)
        hidden = layers.attended(hidden, context, name, SELF_ATTENTION)
        context = builder.cross_attention(
            layers.linear(hidden, f"{name}.{query}"), _cross_attention(c, layer)
        )
        hidden = layers.attended(hidden, context, name, CROSS_ATTENTION)
        hidden = layers.mlp(hidden, name, MLP, c.activation)
    head = weight(EMBEDDING).with_role("head") if c.tied_head else weight(HEAD)
    stored = weight(LOGITS_BIAS)
    bias = Weight(stored.name, stored.role, FlatOf(stored.source))
    builder.output_logits(builder.linear(hidden, [head], [bias]))


def _positioned(
    layers: PostNormLayers[Value], embedded: Value, c: EncoderDecoderConfiguration, side: str
) -> Value:
    builder = layers.builder
    if c.embedding_scale != 1:
        embedded = builder.scale(embedded, c.embedding_scale)
    positions = builder.position_embedding(layers.weight(_positions(side)), c.position_offset)
    return layers.norm(builder.add(embedded, positions), f"model.{side}.layernorm_embedding")


def _positions(side: str) -> str:
    return f"model.{side}.embed_positions.weight"


def _cross_attention(c: EncoderDecoderConfiguration, layer: int) -> CrossAttention:
    return CrossAttention(layer, c.heads, c.head_size, c.head_size**-0.5)


def _of_both_sides(config: Mapping[str, Any], name: str) -> int:
    """Read what the configuration holds for each side and the layers have once.

    Raises:
        ConfigurationError: The sides differ.
    """
    encoder, decoder = (int(required(config, f"{side}_{name}")) for side in ("encoder", "decoder"))
    if encoder != decoder:
        raise ConfigurationError(
            f"encoder_{name} is {encoder} and decoder_{name} is {decoder}; known are models where "
            "both are the same"
        )
    return encoder

"""``model_type: llama``: Llama 1 to 3, TinyLlama, LiteLlama, Orca 2, SmolLM2.

Pre-norm blocks with RMSNorm, rotary grouped-query attention and a SiLU-gated MLP (arXiv 2302.13971,
2307.09288). The head may be tied to the embedding. Order of this file: configuration, tensors,
forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgewise.exporter.graph.attention import QueryKeyNorms
from edgewise.exporter.graph.protocol import GraphBuilder, Value
from edgewise.exporter.graph.weight import Role, Weight
from edgewise.exporter.models.decoder import (
    ConfigurationError,
    DecoderConfiguration,
    TensorSpecification,
    required,
)
from edgewise.exporter.models.decoder_head import (
    LANGUAGE_HEAD,
    head_constants,
    head_tensors,
    output_head,
)
from edgewise.exporter.models.rotary import rotary_from_configuration

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"


def configuration(config: Mapping[str, Any]) -> DecoderConfiguration:
    """Read a Hugging Face ``LlamaConfig``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ConfigurationError(
            f"hidden_act is {activation!r}; a {config.get('model_type')!r} model has 'silu'"
        )
    hidden_size = int(required(config, "hidden_size"))
    heads = int(required(config, "num_attention_heads"))
    head_size = int(config.get("head_dim") or hidden_size // heads)
    attention_biases = bool(config.get("attention_bias", False))
    return DecoderConfiguration(
        vocabulary_size=int(required(config, "vocab_size")),
        hidden_size=hidden_size,
        layers=int(required(config, "num_hidden_layers")),
        heads=heads,
        key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_size=head_size,
        intermediate_size=int(required(config, "intermediate_size")),
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        context_length=int(required(config, "max_position_embeddings")),
        rotary=rotary_from_configuration(
            head_size, float(config.get("rope_theta") or 10000.0), config.get("rope_scaling")
        ),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        query_key_value_biases=attention_biases,
        output_bias=attention_biases,
        mlp_biases=bool(config.get("mlp_bias", False)),
        **head_constants(config),
    )


def tensors(configuration: DecoderConfiguration) -> dict[str, TensorSpecification]:
    """List every tensor of the checkpoint with its shape and role."""
    c = configuration
    query, key_value = c.heads * c.head_size, c.key_value_heads * c.head_size
    table = {EMBEDDING: TensorSpecification((c.vocabulary_size, c.hidden_size), "embedding")}

    def norm(name: str, size: int) -> None:
        table[f"{name}.weight"] = TensorSpecification((size,), "norm")

    def matrix(name: str, rows: int, columns: int, role: Role, *, bias: bool) -> None:
        table[f"{name}.weight"] = TensorSpecification((rows, columns), role)
        if bias:
            table[f"{name}.bias"] = TensorSpecification((rows,), "bias")

    def pack(name: str, parts: tuple[str, ...], rows: list[int], role: Role, *, bias: bool) -> None:
        sizes = [sum(rows)] if c.packed_projections else rows
        for part, size in zip(parts, sizes, strict=True):
            matrix(f"{name}.{part}", size, c.hidden_size, role, bias=bias)

    for layer in range(c.layers):
        prefix = f"model.layers.{layer}"
        norm(f"{prefix}.input_layernorm", c.hidden_size)
        norm(f"{prefix}.post_attention_layernorm", c.hidden_size)
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        rows = [query, key_value, key_value]
        pack(attention, _query_key_value(c), rows, "attention", bias=c.query_key_value_biases)
        if c.query_key_norms:
            norm(f"{attention}.q_norm", c.head_size)
            norm(f"{attention}.k_norm", c.head_size)
        matrix(f"{attention}.o_proj", c.hidden_size, query, "attention", bias=c.output_bias)
        pack(mlp, _gate_up(c), [c.intermediate_size] * 2, "mlp", bias=c.mlp_biases)
        matrix(f"{mlp}.down_proj", c.hidden_size, c.intermediate_size, "mlp", bias=c.mlp_biases)
    norm(FINAL_NORM.removesuffix(".weight"), c.hidden_size)
    return table | head_tensors(c)


def ignored(name: str) -> bool:
    """Tell whether a checkpoint may hold this tensor although nothing reads it.

    Old checkpoints store the rotary frequencies, and some that tie the head store it all the same.
    """
    return name.endswith("rotary_emb.inv_freq") or name == f"{LANGUAGE_HEAD}.weight"


def forward(
    builder: GraphBuilder[Value],
    configuration: DecoderConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe one pass: token ids to logits, the cache extended."""
    c = configuration
    hidden = builder.embedded_tokens(weight(EMBEDDING))
    normed = builder.rms_norm(
        hidden, weight("model.layers.0.input_layernorm.weight"), c.norm_epsilon
    )
    for layer in range(c.layers):
        hidden, normed = _block(builder, c, weight, layer, hidden, normed)
    output_head(builder, c, weight, normed, EMBEDDING)


def attended(
    builder: GraphBuilder[Value],
    c: DecoderConfiguration,
    weight: Callable[[str], Weight],
    layer: int,
    normed: Value,
) -> Value:
    """Describe a layer's attention up to its output projection: [B, T, heads * head size]."""
    name = f"model.layers.{layer}.self_attn"
    norms = None
    if c.query_key_norms:
        query, key = weight(f"{name}.q_norm.weight"), weight(f"{name}.k_norm.weight")
        norms = QueryKeyNorms(query, key, c.norm_epsilon)
    names = [f"{name}.{part}" for part in _query_key_value(c)]
    packed = linear(builder, weight, normed, names, biases=c.query_key_value_biases)
    return builder.attention(packed, c.attention(layer, norms))


def gated_mlp(
    builder: GraphBuilder[Value],
    c: DecoderConfiguration,
    weight: Callable[[str], Weight],
    layer: int,
    normed: Value,
) -> Value:
    """Describe a layer's MLP."""
    name = f"model.layers.{layer}.mlp"
    names = [f"{name}.{part}" for part in _gate_up(c)]
    inner = linear(builder, weight, normed, names, biases=c.mlp_biases)
    gated = builder.gated_activation(inner, c.activation)
    return linear(builder, weight, gated, [f"{name}.down_proj"], biases=c.mlp_biases)


def linear(
    builder: GraphBuilder[Value],
    weight: Callable[[str], Weight],
    x: Value,
    names: list[str],
    *,
    biases: bool,
) -> Value:
    """Describe a product with one or several matrices, and their biases where there are any."""
    return builder.linear(
        x,
        [weight(f"{name}.weight") for name in names],
        [weight(f"{name}.bias") for name in names] if biases else None,
    )


def _block(
    builder: GraphBuilder[Value],
    c: DecoderConfiguration,
    weight: Callable[[str], Weight],
    layer: int,
    hidden: Value,
    normed: Value,
) -> tuple[Value, Value]:
    """One layer, and the norm that follows it: the next layer's or the final one."""
    prefix = f"model.layers.{layer}"
    context = attended(builder, c, weight, layer, normed)
    is_last = layer == c.layers - 1
    if is_last:
        # Nothing after the last attention mixes positions: the rest is for the last token alone.
        context, hidden = builder.last_token(context), builder.last_token(hidden)
    names = [f"{prefix}.self_attn.o_proj"]
    hidden, normed = builder.add_rms_norm(
        hidden,
        linear(builder, weight, context, names, biases=c.output_bias),
        weight(f"{prefix}.post_attention_layernorm.weight"),
        c.norm_epsilon,
    )
    outer = gated_mlp(builder, c, weight, layer, normed)
    following = FINAL_NORM if is_last else f"model.layers.{layer + 1}.input_layernorm.weight"
    return builder.add_rms_norm(hidden, outer, weight(following), c.norm_epsilon)


def _query_key_value(c: DecoderConfiguration) -> tuple[str, ...]:
    return ("qkv_proj",) if c.packed_projections else ("q_proj", "k_proj", "v_proj")


def _gate_up(c: DecoderConfiguration) -> tuple[str, ...]:
    return ("gate_up_proj",) if c.packed_projections else ("gate_proj", "up_proj")

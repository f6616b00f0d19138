"""``model_type: llama``: Llama 1 to 3, TinyLlama, LiteLlama, Orca 2, SmolLM2.

Pre-norm blocks with RMSNorm, rotary grouped-query attention and a SiLU-gated MLP (arXiv 2302.13971,
2307.09288). The head may be tied to the embedding. Order of this file: configuration, tensors,
forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgewise.exporter.graph.protocol import Attention, GraphBuilder, Value, Weight
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

    def matrix(name: str, rows: int, columns: int, role: str, bias: bool) -> None:  # noqa: FBT001 - private, read at the call
        table[f"{name}.weight"] = TensorSpecification(
            (rows, columns), "attention" if role == "attention" else "mlp"
        )
        if bias:
            table[f"{name}.bias"] = TensorSpecification((rows,), "bias")

    for layer in range(c.layers):
        prefix = f"model.layers.{layer}"
        norm = TensorSpecification((c.hidden_size,), "norm")
        table[f"{prefix}.input_layernorm.weight"] = norm
        table[f"{prefix}.post_attention_layernorm.weight"] = norm
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        biases = c.query_key_value_biases
        matrix(f"{attention}.q_proj", query, c.hidden_size, "attention", biases)
        matrix(f"{attention}.k_proj", key_value, c.hidden_size, "attention", biases)
        matrix(f"{attention}.v_proj", key_value, c.hidden_size, "attention", biases)
        matrix(f"{attention}.o_proj", c.hidden_size, query, "attention", c.output_bias)
        matrix(f"{mlp}.gate_proj", c.intermediate_size, c.hidden_size, "mlp", c.mlp_biases)
        matrix(f"{mlp}.up_proj", c.intermediate_size, c.hidden_size, "mlp", c.mlp_biases)
        matrix(f"{mlp}.down_proj", c.hidden_size, c.intermediate_size, "mlp", c.mlp_biases)
    table[FINAL_NORM] = TensorSpecification((c.hidden_size,), "norm")
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

    def linear(x: Value, block: str, names: list[str], biases: bool) -> Value:  # noqa: FBT001 - private, read at the call
        return builder.linear(
            x,
            [weight(f"{prefix}.{block}.{name}.weight") for name in names],
            [weight(f"{prefix}.{block}.{name}.bias") for name in names] if biases else None,
        )

    context = builder.attention(
        linear(normed, "self_attn", ["q_proj", "k_proj", "v_proj"], c.query_key_value_biases),
        Attention(
            layer=layer,
            heads=c.heads,
            key_value_heads=c.key_value_heads,
            head_size=c.head_size,
            scale=c.head_size**-0.5,
            rotary=c.rotary,
        ),
    )
    is_last = layer == c.layers - 1
    if is_last:
        # Nothing after the last attention mixes positions: the rest is for the last token alone.
        context, hidden = builder.last_token(context), builder.last_token(hidden)
    hidden, normed = builder.add_rms_norm(
        hidden,
        linear(context, "self_attn", ["o_proj"], c.output_bias),
        weight(f"{prefix}.post_attention_layernorm.weight"),
        c.norm_epsilon,
    )
    gated = builder.gated_activation(
        linear(normed, "mlp", ["gate_proj", "up_proj"], c.mlp_biases), "silu"
    )
    following = FINAL_NORM if is_last else f"model.layers.{layer + 1}.input_layernorm.weight"
    return builder.add_rms_norm(
        hidden, linear(gated, "mlp", ["down_proj"], c.mlp_biases), weight(following), c.norm_epsilon
    )

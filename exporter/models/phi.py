"""``model_type: phi``: Phi-1, Phi-1.5, Phi-2, and scoring heads on them (TinyGSM).

Parallel blocks: attention and MLP read one LayerNorm and are added to the states together. Only
the leading part of each head rotates, and every product carries a bias, the head's too (arXiv
2309.05463). Scores are float32 in every format: Phi-2's do not fit float16. Order of this file:
configuration, tensors, forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
from edgewise.exporter.models.encoder import activation_of
from edgewise.exporter.models.rotary import rotary_from_configuration

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.final_layernorm"
QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj")
DEFAULT_ROTARY_SHARE = 0.5  # of a head; what Phi-1 has and does not say


def configuration(config: Mapping[str, Any]) -> DecoderConfiguration:
    """Read a Hugging Face ``PhiConfig``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    if config.get("qk_layernorm"):
        raise ConfigurationError(
            "qk_layernorm is true; no published Phi has norms on queries and keys, "
            "and this export does not know them"
        )
    hidden_size = int(required(config, "hidden_size"))
    heads = int(required(config, "num_attention_heads"))
    head_size = hidden_size // heads
    share = float(config.get("partial_rotary_factor") or DEFAULT_ROTARY_SHARE)
    return DecoderConfiguration(
        vocabulary_size=int(required(config, "vocab_size")),
        hidden_size=hidden_size,
        layers=int(required(config, "num_hidden_layers")),
        heads=heads,
        key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_size=head_size,
        intermediate_size=int(required(config, "intermediate_size")),
        norm_epsilon=float(config.get("layer_norm_eps", 1e-5)),
        context_length=int(required(config, "max_position_embeddings")),
        rotary=rotary_from_configuration(
            int(head_size * share),
            float(config.get("rope_theta") or 10000.0),
            config.get("rope_scaling"),
        ),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        query_key_value_biases=True,
        output_bias=True,
        mlp_biases=True,
        activation=activation_of(config, "hidden_act", "gelu_new"),
        **head_constants(config, language_bias=True),
    )


def tensors(configuration: DecoderConfiguration) -> dict[str, TensorSpecification]:
    """List every tensor of the checkpoint with its shape and role."""
    c = configuration
    width, query, key_value = c.hidden_size, c.heads * c.head_size, c.key_value_heads * c.head_size
    table = {EMBEDDING: TensorSpecification((c.vocabulary_size, width), "embedding")}

    def matrix(name: str, rows: int, columns: int, role: Role) -> None:
        table[f"{name}.weight"] = TensorSpecification((rows, columns), role)
        table[f"{name}.bias"] = TensorSpecification((rows,), "bias")

    def norm(name: str) -> None:
        table[f"{name}.weight"] = TensorSpecification((width,), "norm")
        table[f"{name}.bias"] = TensorSpecification((width,), "bias")

    for layer in range(c.layers):
        prefix = f"model.layers.{layer}"
        norm(f"{prefix}.input_layernorm")
        for name, rows in zip(QUERY_KEY_VALUE, (query, key_value, key_value), strict=True):
            matrix(f"{prefix}.self_attn.{name}", rows, width, "attention")
        matrix(f"{prefix}.self_attn.dense", width, query, "attention")
        matrix(f"{prefix}.mlp.fc1", c.intermediate_size, width, "mlp")
        matrix(f"{prefix}.mlp.fc2", width, c.intermediate_size, "mlp")
    norm(FINAL_NORM)
    return table | head_tensors(c)


def ignored(name: str) -> bool:
    """Tell whether a checkpoint may hold this tensor although nothing reads it.

    Old checkpoints store the rotary frequencies, and one that scores may keep its language head.
    """
    return name.endswith("rotary_emb.inv_freq") or name.startswith(f"{LANGUAGE_HEAD}.")


def forward(
    builder: GraphBuilder[Value],
    configuration: DecoderConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe one pass: token ids to logits, the cache extended."""
    c = configuration

    def linear(x: Value, *names: str) -> Value:
        return builder.linear(
            x,
            [weight(f"{name}.weight") for name in names],
            [weight(f"{name}.bias") for name in names],
        )

    hidden = builder.embedded_tokens(weight(EMBEDDING))
    first = "model.layers.0.input_layernorm"
    normed = builder.layer_norm(
        hidden, weight(f"{first}.weight"), weight(f"{first}.bias"), c.norm_epsilon
    )
    for layer in range(c.layers):
        prefix = f"model.layers.{layer}"
        packed = linear(normed, *(f"{prefix}.self_attn.{part}" for part in QUERY_KEY_VALUE))
        context = builder.attention(packed, c.attention(layer))
        is_last = layer == c.layers - 1
        if is_last:
            # Nothing after the last attention mixes positions: the rest is for the last token.
            context, hidden, normed = map(builder.last_token, (context, hidden, normed))
        attended = linear(context, f"{prefix}.self_attn.dense")
        inner = builder.activation(linear(normed, f"{prefix}.mlp.fc1"), c.activation)
        outer = linear(inner, f"{prefix}.mlp.fc2")
        following = FINAL_NORM if is_last else f"model.layers.{layer + 1}.input_layernorm"
        hidden, normed = builder.add_layer_norm(
            builder.add(hidden, attended),
            outer,
            weight(f"{following}.weight"),
            weight(f"{following}.bias"),
            c.norm_epsilon,
        )
    output_head(builder, c, weight, normed, EMBEDDING)

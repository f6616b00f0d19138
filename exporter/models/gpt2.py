"""``model_type: gpt2``: GPT-2 and what is trained in its shape.

Pre-norm blocks with LayerNorm, learned positions, biases everywhere, a head tied to the embedding.
Matrices are stored [in, out], and query, key and value are one. Order of this file: configuration,
tensors, forward pass.
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

EMBEDDING = "transformer.wte.weight"
POSITIONS = "transformer.wpe.weight"
FINAL_NORM = "transformer.ln_f"
DEFAULT_INNER_RATIO = 4
# What a variant may switch on, and what GPT-2 has.
EXPECTED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def configuration(config: Mapping[str, Any]) -> DecoderConfiguration:
    """Read a Hugging Face ``GPT2Config``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    for name, value in EXPECTED.items():
        if bool(config.get(name, value)) != value:
            raise ConfigurationError(
                f"{name} is {config[name]!r}; GPT-2 has {value!r}, and this export knows only that"
            )
    hidden_size = int(required(config, "n_embd"))
    heads = int(required(config, "n_head"))
    if hidden_size % heads:
        raise ConfigurationError(
            f"{hidden_size} features can not be split into {heads} heads: "
            "n_embd must be a multiple of n_head in config.json"
        )
    return DecoderConfiguration(
        vocabulary_size=int(required(config, "vocab_size")),
        hidden_size=hidden_size,
        layers=int(required(config, "n_layer")),
        heads=heads,
        key_value_heads=heads,
        head_size=hidden_size // heads,
        intermediate_size=int(config.get("n_inner") or DEFAULT_INNER_RATIO * hidden_size),
        norm_epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
        context_length=int(required(config, "n_positions")),
        rotary=None,
        tied_head=bool(config.get("tie_word_embeddings", True)),
        query_key_value_biases=True,
        output_bias=True,
        mlp_biases=True,
        activation=activation_of(config, "activation_function", "gelu_new"),
        transposed_weights=bool(config.get("transposed_weights", True)),
        **head_constants(config),
    )


def tensors(configuration: DecoderConfiguration) -> dict[str, TensorSpecification]:
    """List every tensor of the checkpoint with its shape and role."""
    c = configuration
    width = c.hidden_size
    table = {
        EMBEDDING: TensorSpecification((c.vocabulary_size, width), "embedding"),
        POSITIONS: TensorSpecification((c.context_length, width), "position"),
    }

    def matrix(name: str, rows: int, columns: int, role: Role) -> None:
        shape = (columns, rows) if c.transposed_weights else (rows, columns)
        table[f"{name}.weight"] = TensorSpecification(shape, role, transposed=c.transposed_weights)
        table[f"{name}.bias"] = TensorSpecification((rows,), "bias")

    def norm(name: str) -> None:
        table[f"{name}.weight"] = TensorSpecification((width,), "norm")
        table[f"{name}.bias"] = TensorSpecification((width,), "bias")

    for layer in range(c.layers):
        prefix = f"transformer.h.{layer}"
        norm(f"{prefix}.ln_1")
        matrix(f"{prefix}.attn.c_attn", 3 * width, width, "attention")
        matrix(f"{prefix}.attn.c_proj", width, width, "attention")
        norm(f"{prefix}.ln_2")
        matrix(f"{prefix}.mlp.c_fc", c.intermediate_size, width, "mlp")
        matrix(f"{prefix}.mlp.c_proj", width, c.intermediate_size, "mlp")
    norm(FINAL_NORM)
    return table | head_tensors(c)


def ignored(name: str) -> bool:
    """Tell whether a checkpoint may hold this tensor although nothing reads it.

    Old checkpoints store the causal mask of each layer, and some the tied head.
    """
    return name.endswith((".attn.bias", ".attn.masked_bias")) or name == f"{LANGUAGE_HEAD}.weight"


def forward(
    builder: GraphBuilder[Value],
    configuration: DecoderConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe one pass: token ids to logits, the cache extended."""
    c = configuration

    def linear(x: Value, name: str) -> Value:
        matrix = weight(f"{name}.weight")
        oriented = matrix.transposed() if c.transposed_weights else matrix
        return builder.linear(x, [oriented], [weight(f"{name}.bias")])

    def add_norm(residual: Value, x: Value, name: str) -> tuple[Value, Value]:
        return builder.add_layer_norm(
            residual, x, weight(f"{name}.weight"), weight(f"{name}.bias"), c.norm_epsilon
        )

    words = builder.embedded_tokens(weight(EMBEDDING))
    positions = builder.position_embedding(weight(POSITIONS), 0)
    hidden, normed = add_norm(words, positions, "transformer.h.0.ln_1")
    for layer in range(c.layers):
        prefix = f"transformer.h.{layer}"
        packed = linear(normed, f"{prefix}.attn.c_attn")
        context = builder.attention(packed, c.attention(layer))
        is_last = layer == c.layers - 1
        if is_last:
            # Nothing after the last attention mixes positions: the rest is for the last token.
            context, hidden = builder.last_token(context), builder.last_token(hidden)
        attended = linear(context, f"{prefix}.attn.c_proj")
        hidden, normed = add_norm(hidden, attended, f"{prefix}.ln_2")
        inner = builder.activation(linear(normed, f"{prefix}.mlp.c_fc"), c.activation)
        outer = linear(inner, f"{prefix}.mlp.c_proj")
        following = FINAL_NORM if is_last else f"transformer.h.{layer + 1}.ln_1"
        hidden, normed = add_norm(hidden, outer, following)
    output_head(builder, c, weight, normed, EMBEDDING)

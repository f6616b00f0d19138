"""``model_type: bert``: BERT, and sentence encoders of its shape (MiniLM, BGE, E5).

Post-norm blocks with LayerNorm, learned positions and token types (arXiv 1810.04805). The head is
what the checkpoint's ``architectures`` says: ``BertModel``, ``BertForMaskedLM`` (with
``BertForPreTraining`` and its like) or ``BertForSequenceClassification``. Order of this file:
configuration, tensors, forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgewise.exporter.graph.protocol import EncoderBuilder, FullAttention, Role, Value, Weight
from edgewise.exporter.models.decoder import ConfigurationError, TensorSpecification, required
from edgewise.exporter.models.encoder import (
    HIDDEN_STATES,
    LOGITS,
    MEAN,
    EncoderConfiguration,
    Head,
    activation_of,
    labels_of,
)

FAMILY = "encoder"
HEADS: Mapping[str, Head] = {
    "BertModel": "features",
    "BertForMaskedLM": "masked_language_model",
    "BertForPreTraining": "masked_language_model",
    "BertForSequenceClassification": "classification",
}
EMBEDDING = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"
EMBEDDING_NORM = "embeddings.LayerNorm"
PREDICTION = "cls.predictions"
QUERY_KEY_VALUE = ("query", "key", "value")


def configuration(config: Mapping[str, Any]) -> EncoderConfiguration:
    """Read a Hugging Face ``BertConfig``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ConfigurationError(f"position_embedding_type is {kind!r}; known is 'absolute'")
    if config.get("is_decoder"):
        raise ConfigurationError("is_decoder is true; this architecture is exported as an encoder")
    architecture = (config.get("architectures") or ["BertModel"])[0]
    if architecture not in HEADS:
        raise ConfigurationError(
            f"this checkpoint is a {architecture}; known are {', '.join(HEADS)}"
        )
    head = HEADS[architecture]
    hidden_size = int(required(config, "hidden_size"))
    heads = int(required(config, "num_attention_heads"))
    return EncoderConfiguration(
        vocabulary_size=int(required(config, "vocab_size")),
        hidden_size=hidden_size,
        layers=int(required(config, "num_hidden_layers")),
        heads=heads,
        head_size=hidden_size // heads,
        intermediate_size=int(required(config, "intermediate_size")),
        norm_epsilon=float(config.get("layer_norm_eps", 1e-12)),
        context_length=int(required(config, "max_position_embeddings")),
        position_offset=0,
        token_types=int(config.get("type_vocab_size", 2)),
        activation=activation_of(config, "hidden_act", "gelu"),
        head=head,
        labels=labels_of(config) if head == "classification" else (),
    )


def tensors(configuration: EncoderConfiguration) -> dict[str, TensorSpecification]:
    """List every tensor of the checkpoint with its shape and role."""
    c = configuration
    width = c.hidden_size
    table: dict[str, TensorSpecification] = {}

    def matrix(name: str, rows: int, columns: int, role: Role) -> None:
        table[f"{name}.weight"] = TensorSpecification((rows, columns), role)
        table[f"{name}.bias"] = TensorSpecification((rows,), "bias")

    def norm(name: str) -> None:
        table[f"{name}.weight"] = TensorSpecification((width,), "norm")
        table[f"{name}.bias"] = TensorSpecification((width,), "bias")

    base = _base(c)
    positions = c.context_length + c.position_offset
    table[base + EMBEDDING] = TensorSpecification((c.vocabulary_size, width), "embedding")
    table[base + POSITIONS] = TensorSpecification((positions, width), "position")
    table[base + TYPES] = TensorSpecification((c.token_types, width), "position")
    norm(base + EMBEDDING_NORM)
    for layer in range(c.layers):
        prefix = f"{base}encoder.layer.{layer}"
        for part in QUERY_KEY_VALUE:
            matrix(f"{prefix}.attention.self.{part}", width, width, "attention")
        matrix(f"{prefix}.attention.output.dense", width, width, "attention")
        norm(f"{prefix}.attention.output.LayerNorm")
        matrix(f"{prefix}.intermediate.dense", c.intermediate_size, width, "mlp")
        matrix(f"{prefix}.output.dense", width, c.intermediate_size, "mlp")
        norm(f"{prefix}.output.LayerNorm")
    if c.head == "masked_language_model":
        matrix(f"{PREDICTION}.transform.dense", width, width, "mlp")
        norm(f"{PREDICTION}.transform.LayerNorm")
        table[f"{PREDICTION}.bias"] = TensorSpecification((c.vocabulary_size,), "bias")
    elif c.head == "classification":
        matrix(f"{base}pooler.dense", width, width, "mlp")
        matrix("classifier", len(c.labels), width, "head")
    return table


def ignored(name: str) -> bool:
    """Tell whether a checkpoint may hold this tensor although nothing reads it.

    Checkpoints keep heads that another task had, the position ids, and a tied decoder twice.
    """
    return (
        name.endswith("embeddings.position_ids")
        or name.removeprefix("bert.").startswith("pooler.")
        or name.startswith(("cls.seq_relationship.", f"{PREDICTION}."))
    )


def forward(
    builder: EncoderBuilder[Value],
    configuration: EncoderConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe one pass: token ids to what the head gives."""
    c = configuration
    base = _base(c)

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

    def normed_sum(residual: Value, x: Value, name: str) -> Value:
        return builder.add_layer_norm(
            residual, x, weight(f"{name}.weight"), weight(f"{name}.bias"), c.norm_epsilon
        )[1]

    words = builder.embedding(builder.token_ids(), weight(base + EMBEDDING))
    types = builder.type_embedding(weight(base + TYPES))
    positions = builder.position_embedding(weight(base + POSITIONS), c.position_offset)
    hidden = norm(builder.add(builder.add(words, types), positions), base + EMBEDDING_NORM)
    for layer in range(c.layers):
        prefix = f"{base}encoder.layer.{layer}"
        packed = linear(hidden, *(f"{prefix}.attention.self.{part}" for part in QUERY_KEY_VALUE))
        context = builder.full_attention(
            packed, FullAttention(layer, c.heads, c.head_size, c.head_size**-0.5)
        )
        attended = linear(context, f"{prefix}.attention.output.dense")
        hidden = normed_sum(hidden, attended, f"{prefix}.attention.output.LayerNorm")
        inner = builder.activation(linear(hidden, f"{prefix}.intermediate.dense"), c.activation)
        outer = linear(inner, f"{prefix}.output.dense")
        hidden = normed_sum(hidden, outer, f"{prefix}.output.LayerNorm")
    match c.head:
        case "features":
            builder.output(HIDDEN_STATES, hidden)
            builder.output(MEAN, builder.mean_of_tokens(hidden))
        case "masked_language_model":
            name = f"{PREDICTION}.transform"
            inner = builder.activation(linear(hidden, f"{name}.dense"), c.activation)
            normed = norm(inner, f"{name}.LayerNorm")
            head = weight(base + EMBEDDING).with_role("head")
            builder.output(LOGITS, builder.linear(normed, [head], [weight(f"{PREDICTION}.bias")]))
        case "classification":
            first = linear(builder.first_token(hidden), f"{base}pooler.dense")
            builder.output(LOGITS, linear(builder.activation(first, "tanh"), "classifier"))


def _base(c: EncoderConfiguration) -> str:
    """Return what stands before the encoder's names: nothing where there is no head."""
    return "" if c.head == "features" else "bert."

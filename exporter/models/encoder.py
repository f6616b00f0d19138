"""What every encoder-only model declares, whatever its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgewise.exporter.graph.protocol import Activation
from edgewise.exporter.models.decoder import ConfigurationError, required

Head = Literal["features", "masked_language_model", "classification", "token_classification"]

LOGITS = "logits"
HIDDEN_STATES = "hidden_states"
MEAN = "mean"

# What checkpoints call an activation, and what it is here.
ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "quick_gelu",
}


@dataclass(frozen=True)
class EncoderConfiguration:
    """The constants of an encoder-only transformer.

    Attributes:
        vocabulary_size: Rows of the embedding.
        hidden_size: Features a token.
        layers: Transformer layers.
        heads: Heads of queries, keys and values.
        head_size: Features a head.
        intermediate_size: Features inside the MLP.
        norm_epsilon: Added to the variance in the norms.
        context_length: Tokens that a sequence may have.
        position_offset: Row of the first token's position.
        token_types: Rows of the token types; 0 for none.
        activation: Inside the MLP.
        head: What the graph gives: all states and their mean, these and a logit for each word at
            each token, or a logit for each label of the text or of each token.
        labels: Names of the labels, in order; empty without classification.
        tied_head: Whether the head that guesses words reads the embedding's weights.
    """

    vocabulary_size: int
    hidden_size: int
    layers: int
    heads: int
    head_size: int
    intermediate_size: int
    norm_epsilon: float
    context_length: int
    position_offset: int
    token_types: int
    activation: Activation
    head: Head
    labels: tuple[str, ...]
    tied_head: bool = True

    def __post_init__(self) -> None:
        if self.heads * self.head_size != self.hidden_size:
            raise ConfigurationError(
                f"{self.hidden_size} features can not be split into {self.heads} heads: "
                "hidden_size must be a multiple of num_attention_heads in config.json"
            )


def heads_of(stem: str) -> dict[str, Head]:
    """Return which head an architecture has, by transformers' names for those of a model."""
    return {
        f"{stem}Model": "features",
        f"{stem}ForMaskedLM": "masked_language_model",
        f"{stem}ForSequenceClassification": "classification",
        f"{stem}ForTokenClassification": "token_classification",
    }


def encoder_configuration(
    config: Mapping[str, Any],
    heads: Mapping[str, Head],
    *,
    token_types: int,
    position_offset: int = 0,
) -> EncoderConfiguration:
    """Read what BERT and its like have in common, by BERT's names.

    Args:
        config: The checkpoint's configuration.
        heads: Which head an architecture has; without one the checkpoint is taken for the first.
        token_types: Rows of the token types.
        position_offset: Row of the first token's position.

    Raises:
        ConfigurationError: A value is missing, or the architecture is not known.
    """
    architecture = (config.get("architectures") or [next(iter(heads))])[0]
    if architecture not in heads:
        raise ConfigurationError(
            f"this checkpoint is a {architecture}; known are {', '.join(heads)}"
        )
    head = heads[architecture]
    hidden_size = int(required(config, "hidden_size"))
    count = int(required(config, "num_attention_heads"))
    return EncoderConfiguration(
        vocabulary_size=int(required(config, "vocab_size")),
        hidden_size=hidden_size,
        layers=int(required(config, "num_hidden_layers")),
        heads=count,
        head_size=hidden_size // count,
        intermediate_size=int(required(config, "intermediate_size")),
        norm_epsilon=float(config.get("layer_norm_eps", 1e-12)),
        context_length=int(required(config, "max_position_embeddings")) - position_offset,
        position_offset=position_offset,
        token_types=token_types,
        activation=activation_of(config, "hidden_act", "gelu"),
        head=head,
        labels=labels_of(config) if head.endswith("classification") else (),
        tied_head=bool(config.get("tie_word_embeddings", True)),
    )


def activation_of(config: Mapping[str, Any], name: str, default: str) -> Activation:
    """Read an activation function.

    Raises:
        ConfigurationError: It is not known here.
    """
    given = str(config.get(name, default))
    if given not in ACTIVATIONS:
        raise ConfigurationError(f"{name} is {given!r}; known are {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[given]


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the names of a classifier's labels; transformers' own default is two.

    Raises:
        ConfigurationError: ``id2label`` does not count from 0.
    """
    names = config.get("id2label")
    if names is None:
        return tuple(f"LABEL_{index}" for index in range(int(config.get("num_labels", 2))))
    by_index = {int(index): str(name) for index, name in names.items()}
    if sorted(by_index) != list(range(len(by_index))):
        raise ConfigurationError(
            f"id2label of config.json names {sorted(by_index)}; labels count from 0 without a gap"
        )
    return tuple(by_index[index] for index in range(len(by_index)))

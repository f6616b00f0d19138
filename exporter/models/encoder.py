"""What every encoder-only model declares, whatever its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgewise.exporter.graph.protocol import Activation
from edgewise.exporter.models.decoder import ConfigurationError

Head = Literal["features", "masked_language_model", "classification"]

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
        head: What the graph gives: all states and their mean, a logit for each word at each token,
            or a logit for each label.
        labels: Names of the labels, in order; empty without classification.
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

    def __post_init__(self) -> None:
        if self.heads * self.head_size != self.hidden_size:
            raise ConfigurationError(
                f"{self.hidden_size} features can not be split into {self.heads} heads: "
                "hidden_size must be a multiple of num_attention_heads in config.json"
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

"""``model_type: bert``: BERT, and sentence encoders of its shape (MiniLM, BGE, E5).

Post-norm layers, learned positions and token types (arXiv 1810.04805). The head is what the
checkpoint's ``architectures`` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewise.exporter.models.decoder import ConfigurationError
from edgewise.exporter.models.encoder import EncoderConfiguration, encoder_configuration, heads_of
from edgewise.exporter.models.post_norm import AttentionNames, MlpNames
from edgewise.exporter.models.post_norm_encoder import (
    EncoderArchitecture,
    TextClassification,
    WordPrediction,
)

FAMILY = "encoder"
HEADS = {**heads_of("Bert"), "BertForPreTraining": "masked_language_model"}
ATTENTION = AttentionNames(
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    "attention.output.LayerNorm",
)
MLP = MlpNames("intermediate.dense", "output.dense", "output.LayerNorm")
PREDICTIONS = "cls.predictions"
ARCHITECTURE = EncoderArchitecture(
    prefix="bert.",
    layers="encoder.layer",
    attention=ATTENTION,
    mlp=MLP,
    prediction=WordPrediction(
        dense=f"{PREDICTIONS}.transform.dense",
        norm=f"{PREDICTIONS}.transform.LayerNorm",
        bias=f"{PREDICTIONS}.bias",
        decoder=f"{PREDICTIONS}.decoder",
        activation=None,
    ),
    classification=TextClassification("bert.pooler.dense", "classifier", "tanh"),
)

tensors = ARCHITECTURE.tensors
forward = ARCHITECTURE.forward


def configuration(config: Mapping[str, Any]) -> EncoderConfiguration:
    """Read a Hugging Face ``BertConfig``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    refuse_variants(config)
    return encoder_configuration(config, HEADS, token_types=int(config.get("type_vocab_size", 2)))


def ignored(name: str) -> bool:
    """Tell whether a checkpoint may hold this tensor although nothing reads it.

    Checkpoints keep heads that another task had, the position ids, and a tied decoder twice.
    """
    return (
        name.endswith("embeddings.position_ids")
        or name.removeprefix("bert.").startswith("pooler.")
        or name.startswith(("cls.seq_relationship.", f"{PREDICTIONS}."))
    )


def refuse_variants(config: Mapping[str, Any]) -> None:
    """Refuse what the same configuration could ask for and these layers do not have.

    Raises:
        ConfigurationError: Positions are relative, or the model is a decoder.
    """
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ConfigurationError(f"position_embedding_type is {kind!r}; known is 'absolute'")
    if config.get("is_decoder"):
        raise ConfigurationError("is_decoder is true; this architecture is exported as an encoder")

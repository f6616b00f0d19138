"""``model_type: distilbert``: DistilBERT (arXiv 1910.01108).

BERT's layers under other names, without types of tokens and without a pooler: the classifier has a
product with a ReLU before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewise.exporter.models.decoder import required
from edgewise.exporter.models.encoder import EncoderConfiguration, encoder_configuration, heads_of
from edgewise.exporter.models.post_norm import AttentionNames, MlpNames
from edgewise.exporter.models.post_norm_encoder import (
    EncoderArchitecture,
    TextClassification,
    WordPrediction,
)

FAMILY = "encoder"
HEADS = heads_of("DistilBert")
ARCHITECTURE = EncoderArchitecture(
    prefix="distilbert.",
    layers="transformer.layer",
    attention=AttentionNames(
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out_lin",
        "sa_layer_norm",
    ),
    mlp=MlpNames("ffn.lin1", "ffn.lin2", "output_layer_norm"),
    prediction=WordPrediction(
        dense="vocab_transform",
        norm="vocab_layer_norm",
        bias="vocab_projector.bias",
        decoder="vocab_projector",
        activation=None,
    ),
    classification=TextClassification("pre_classifier", "classifier", "relu"),
)
# What BERT's configuration calls the same.
NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}

tensors = ARCHITECTURE.tensors
forward = ARCHITECTURE.forward


def configuration(config: Mapping[str, Any]) -> EncoderConfiguration:
    """Read a Hugging Face ``DistilBertConfig``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    renamed = {name: required(config, ours) for name, ours in NAMES.items()}
    return encoder_configuration({**config, **renamed}, HEADS, token_types=0)


def ignored(name: str) -> bool:
    """Tell whether a checkpoint may hold this tensor although nothing reads it.

    Checkpoints keep the position ids, and the head that guesses words, tied or not.
    """
    return name.endswith("embeddings.position_ids") or name.startswith("vocab_")

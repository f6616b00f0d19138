"""``model_type: roberta``: RoBERTa (arXiv 1907.11692), PET, SuperICL's plug-in.

BERT's layers. Positions count from one behind the padding's id, so the first rows of their table
are never read and a text may be that much shorter than the table; there is one type of tokens. The
head that guesses words has a GELU whatever the layers have, and the classifier has no pooler before
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgewise.exporter.models import bert
from edgewise.exporter.models.decoder import ConfigurationError
from edgewise.exporter.models.encoder import (
    EncoderConfiguration,
    Head,
    encoder_configuration,
    heads_of,
)
from edgewise.exporter.models.post_norm_encoder import TextClassification, WordPrediction

FAMILY = "encoder"
HEADS = heads_of("Roberta")
ARCHITECTURE = replace(
    bert.ARCHITECTURE,
    prefix="roberta.",
    prediction=WordPrediction(
        dense="lm_head.dense",
        norm="lm_head.layer_norm",
        bias="lm_head.bias",
        decoder="lm_head.decoder",
        activation="gelu",
    ),
    classification=TextClassification("classifier.dense", "classifier.out_proj", "tanh"),
)

tensors = ARCHITECTURE.tensors
forward = ARCHITECTURE.forward


def configuration(config: Mapping[str, Any]) -> EncoderConfiguration:
    """Read a Hugging Face ``RobertaConfig``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    return configuration_with_heads(config, HEADS)


def configuration_with_heads(
    config: Mapping[str, Any], heads: Mapping[str, Head]
) -> EncoderConfiguration:
    """Read the configuration of a model that differs in the names of its architectures alone.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    bert.refuse_variants(config)
    padding = config.get("pad_token_id", 1)
    if padding is None:
        raise ConfigurationError(
            "pad_token_id is null; positions are counted from it, and in RoBERTa it is 1"
        )
    return encoder_configuration(
        config,
        heads,
        token_types=int(config.get("type_vocab_size", 1)),
        position_offset=int(padding) + 1,
    )


def ignored(name: str) -> bool:
    """Tell whether a checkpoint may hold this tensor although nothing reads it.

    Checkpoints keep the pooler, the position ids, and the head that guesses words, tied or not.
    """
    return name.endswith("embeddings.position_ids") or name.removeprefix("roberta.").startswith(
        ("pooler.", "lm_head.")
    )

"""``model_type: xlm-roberta``: XLM-RoBERTa, and sentence encoders of its shape (multilingual E5).

RoBERTa with a vocabulary of a hundred languages (arXiv 1911.02116).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewise.exporter.models import roberta
from edgewise.exporter.models.encoder import EncoderConfiguration, heads_of

FAMILY = "encoder"
HEADS = heads_of("XLMRoberta")

tensors = roberta.tensors
ignored = roberta.ignored
forward = roberta.forward


def configuration(config: Mapping[str, Any]) -> EncoderConfiguration:
    """Read a Hugging Face ``XLMRobertaConfig``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    return roberta.configuration_with_heads(config, HEADS)

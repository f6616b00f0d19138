"""``model_type: mt5``: mT5 (arXiv 2010.11934).

T5 v1.1 with a larger vocabulary: a gated MLP and a head of its own, whether the configuration says
so or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewise.exporter.models import t5
from edgewise.exporter.models.encoder_decoder import EncoderDecoderConfiguration

FAMILY = "encoder_decoder"
VERSION_1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

tensors = t5.tensors
ignored = t5.ignored
encode = t5.encode
decode = t5.decode


def configuration(config: Mapping[str, Any]) -> EncoderDecoderConfiguration:
    """Read a Hugging Face ``MT5Config``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    return t5.configuration({**VERSION_1_1, **config})

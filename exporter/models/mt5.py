"""``model_type: mt5``: mT5 (arXiv 2010.11934).

T5 v1.1 with a larger vocabulary: a gated MLP unless the configuration says otherwise, and always a
head of its own, even where transformers 5 writes that it is tied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewise.exporter.models import t5
from edgewise.exporter.models.encoder_decoder import EncoderDecoderConfiguration

FAMILY = "encoder_decoder"

tensors = t5.tensors
ignored = t5.ignored
encode = t5.encode
decode = t5.decode


def configuration(config: Mapping[str, Any]) -> EncoderDecoderConfiguration:
    """Read a Hugging Face ``MT5Config``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    untied = {**config, "scale_decoder_outputs": False}
    return t5.configuration({"feed_forward_proj": "gated-gelu", **untied})

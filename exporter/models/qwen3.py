"""``model_type: qwen3``: Qwen3, dense.

Llama's block with RMSNorm on each head of queries and keys, and heads whose size does not follow
from the hidden size (arXiv 2505.09388).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgewise.exporter.models import llama, qwen2
from edgewise.exporter.models.decoder import DecoderConfiguration

tensors = llama.tensors
ignored = llama.ignored
forward = llama.forward

DEFAULT_HEAD_SIZE = 128


def configuration(config: Mapping[str, Any]) -> DecoderConfiguration:
    """Read a Hugging Face ``Qwen3Config``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    complete = {**config, "head_dim": config.get("head_dim") or DEFAULT_HEAD_SIZE}
    biases = bool(config.get("attention_bias", False))
    found = qwen2.with_windows(complete, attention_bias=biases)
    return replace(found, query_key_norms=True)

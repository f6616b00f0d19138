"""``model_type: qwen2``: Qwen2, Qwen2.5 and Qwen2.5-Coder.

Llama's block with biases on the query, key and value projections alone (arXiv 2407.10671).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgewise.exporter.models import llama
from edgewise.exporter.models.decoder import ConfigurationError, DecoderConfiguration

tensors = llama.tensors
ignored = llama.ignored
forward = llama.forward


def configuration(config: Mapping[str, Any]) -> DecoderConfiguration:
    """Read a Hugging Face ``Qwen2Config``.

    Raises:
        ConfigurationError: A value is missing, or sliding-window attention is switched on.
    """
    if config.get("use_sliding_window"):
        raise ConfigurationError(
            "use_sliding_window is true; this export knows full attention only. "
            "Set it to false if the context you need is within the window."
        )
    return replace(
        llama.configuration({**config, "attention_bias": False}), query_key_value_biases=True
    )

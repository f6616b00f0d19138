"""``model_type: qwen2``: Qwen2, Qwen2.5 and Qwen2.5-Coder.

Llama's block with biases on the query, key and value projections alone (arXiv 2407.10671). Upper
layers may see a window of tokens, which no published configuration switches on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgewise.exporter.models import llama
from edgewise.exporter.models.decoder import DecoderConfiguration
from edgewise.exporter.models.windows import FULL, SLIDING, windows_of

tensors = llama.tensors
ignored = llama.ignored
forward = llama.forward

DEFAULT_FULL_LAYERS = 28  # max_window_layers where the configuration does not say


def configuration(config: Mapping[str, Any]) -> DecoderConfiguration:
    """Read a Hugging Face ``Qwen2Config``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    return replace(with_windows(config, attention_bias=False), query_key_value_biases=True)


def with_windows(config: Mapping[str, Any], *, attention_bias: bool) -> DecoderConfiguration:
    """Read what Qwen's generations share: Llama's constants, and windows in upper layers.

    Args:
        config: Of the checkpoint.
        attention_bias: Whether all four projections carry biases.
    """
    found = llama.configuration({**config, "attention_bias": attention_bias})
    if not config.get("use_sliding_window"):
        return found
    first = int(config.get("max_window_layers", DEFAULT_FULL_LAYERS))
    default = tuple(FULL if layer < first else SLIDING for layer in range(found.layers))
    return replace(found, windows=windows_of(config, found.layers, default))

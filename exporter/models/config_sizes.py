"""Whether the sizes in a config.json are numbers that a model can have.

Workflow: `check_sizes` before a definition reads a configuration. What it lets through may still
not be what the weights are; that the check of the tensors tells.

Rule: a file from elsewhere never decides how long a loop is or how much memory is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from edgewise.exporter.models.decoder import ConfigurationError

LAYERS_MAX = 1024
HEADS_MAX = 4096
SIZE_MAX = 1 << 20
VOCABULARY_MAX = 1 << 24
POSITIONS_MAX = (1 << 31) - 1

_COUNTS: Mapping[str, int] = {
    **dict.fromkeys(
        (
            "num_hidden_layers",
            "num_layers",
            "num_decoder_layers",
            "encoder_layers",
            "decoder_layers",
            "n_layer",
            "n_layers",
        ),
        LAYERS_MAX,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "num_key_value_heads",
            "num_heads",
            "encoder_attention_heads",
            "decoder_attention_heads",
            "n_head",
            "n_heads",
        ),
        HEADS_MAX,
    ),
    **dict.fromkeys(
        (
            "hidden_size",
            "intermediate_size",
            "head_dim",
            "d_model",
            "d_ff",
            "d_kv",
            "dim",
            "hidden_dim",
            "encoder_ffn_dim",
            "decoder_ffn_dim",
            "n_embd",
            "n_inner",
            "image_size",
            "patch_size",
        ),
        SIZE_MAX,
    ),
    "vocab_size": VOCABULARY_MAX,
    **dict.fromkeys(("max_position_embeddings", "n_positions"), POSITIONS_MAX),
}
_POSITIVE = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta")
_PARTS = ("text_config", "vision_config")


def check_sizes(config: Mapping[str, Any]) -> None:
    """Refuse sizes that no model has.

    Args:
        config: The content of a config.json, of any model type; null stands for what is left out.

    Raises:
        ConfigurationError: A size is no whole number from 1 to the most that is accepted, or a
            constant is no positive number; all of them are named.
    """
    problems = [*_problems(config, "")]
    for part in _PARTS:
        if isinstance(within := config.get(part), Mapping):
            problems += _problems(within, f"{part}.")
    if problems:
        raise ConfigurationError(
            f"config.json of this {config.get('model_type')!r} checkpoint is not usable: "
            f"{'; '.join(problems)}. Take the file that came with the weights."
        )


def _problems(config: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, most in _COUNTS.items():
        value = config.get(name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and 1 <= value <= most):
            yield f"{prefix}{name} is {value!r}, accepted: a whole number from 1 to {most}"
    for name in _POSITIVE:
        value = config.get(name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and value > 0 and math.isfinite(value)):
            yield f"{prefix}{name} is {value!r}, accepted: a number over 0"

"""``model_type: phi3``: Phi-3, Phi-3.5 and Phi-4.

Llama's block with query, key and value in one matrix, gate and up in another, perhaps a window in
every layer, and a part of a head that rotates (arXiv 2404.14219). Long-context checkpoints stretch
their rotary frequencies from a length on; they are exported for what is below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgewise.exporter.models import llama
from edgewise.exporter.models.decoder import DecoderConfiguration, required
from edgewise.exporter.models.rotary import LONG_ROPE, rotary_from_configuration
from edgewise.exporter.models.windows import SLIDING, windows_of

tensors = llama.tensors
ignored = llama.ignored
forward = llama.forward


def configuration(config: Mapping[str, Any]) -> DecoderConfiguration:
    """Read a Hugging Face ``Phi3Config``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    biases = {"attention_bias": False, "mlp_bias": False}
    found = llama.configuration({**config, **biases, "rope_scaling": None})
    share = float(config.get("partial_rotary_factor") or 1.0)
    scaling = dict(config.get("rope_scaling") or {})
    context = found.context_length
    if scaling.get("rope_type", scaling.get("type")) in LONG_ROPE:
        original = scaling.get("original_max_position_embeddings")
        if original is None:
            original = required(config, "original_max_position_embeddings")
        scaling.setdefault("factor", context / int(original))
        scaling["original_max_position_embeddings"] = context = int(original)
    return replace(
        found,
        context_length=context,
        rotary=rotary_from_configuration(
            int(found.head_size * share), float(config.get("rope_theta") or 10000.0), scaling
        ),
        windows=windows_of(
            config, found.layers, (SLIDING,) * found.layers if config.get("sliding_window") else ()
        ),
        packed_projections=True,
    )

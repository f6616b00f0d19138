"""``genai_config.json``: lets onnxruntime-genai load a bundle's folder as it is.

The field names are onnxruntime-genai's (its ``Config`` reads them); the values are those that the
manifest is made of.
"""

from __future__ import annotations

import json

from edgewise.exporter.graph.onnx_builder import (
    LOGITS,
    PAST_NAMES,
    PRESENT_NAMES,
)
from edgewise.exporter.graph.onnx_operations import ATTENTION_MASK, INPUT_IDS
from edgewise.exporter.models.decoder import DecoderConfiguration
from edgewise.exporter.plan import ExportPlan
from edgewise.runtime.bundle import SamplingDefaults, SpecialTokens

# What onnxruntime-genai calls a type by another name: its own "gpt2" has a cache of another shape,
# "decoder" is whatever has the inputs and outputs that are written here.
TYPES = {"gpt2": "decoder", "phi-msft": "phi"}


def genai_config(
    plan: ExportPlan, tokens: SpecialTokens, defaults: SamplingDefaults, graph_file: str
) -> bytes:
    """Return the file's content.

    Args:
        plan: What is exported.
        tokens: The ids with a function.
        defaults: Sampling as the checkpoint advises it.
        graph_file: The graph's file name.
    """
    configuration = plan.configuration
    if not isinstance(configuration, DecoderConfiguration):
        raise TypeError(f"{plan.model_id} is no decoder, which is all that genai reads")
    config = {
        "model": {
            "type": TYPES.get(plan.architecture, plan.architecture),
            "vocab_size": configuration.vocabulary_size,
            "context_length": plan.context_length,
            **_token_ids(tokens),
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": graph_file,
                "head_size": configuration.head_size,
                "hidden_size": configuration.hidden_size,
                "num_attention_heads": configuration.heads,
                "num_hidden_layers": configuration.layers,
                "num_key_value_heads": configuration.key_value_heads,
                "inputs": {
                    "input_ids": INPUT_IDS,
                    "attention_mask": ATTENTION_MASK,
                    "past_key_names": PAST_NAMES[0].replace("{layer}", "%d"),
                    "past_value_names": PAST_NAMES[1].replace("{layer}", "%d"),
                },
                "outputs": {
                    "logits": LOGITS,
                    "present_key_names": PRESENT_NAMES[0].replace("{layer}", "%d"),
                    "present_value_names": PRESENT_NAMES[1].replace("{layer}", "%d"),
                },
            },
        },
        "search": {
            "do_sample": defaults.temperature is not None and defaults.temperature > 0,
            "temperature": defaults.temperature or 1.0,
            "top_k": defaults.top_k or 50,
            "top_p": defaults.top_p or 1.0,
            "repetition_penalty": defaults.repetition_penalty or 1.0,
            "max_length": plan.context_length,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
        },
    }
    return (json.dumps(config, indent=2) + "\n").encode()


def _token_ids(tokens: SpecialTokens) -> dict[str, int | list[int]]:
    """Name the tokens that the model has; a field that is left out stands for none."""
    ids: dict[str, int | list[int]] = {}
    if tokens.beginning is not None:
        ids["bos_token_id"] = tokens.beginning
    if tokens.end:
        ids["eos_token_id"] = tokens.end[0] if len(tokens.end) == 1 else list(tokens.end)
    padding = tokens.padding if tokens.padding is not None else next(iter(tokens.end), None)
    if padding is not None:
        ids["pad_token_id"] = padding
    return ids

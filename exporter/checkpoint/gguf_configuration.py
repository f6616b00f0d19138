"""Rebuilds a Hugging Face configuration from the fields of a GGUF file.

Rules: a key is given only if the file says it or the architecture fixes it; a feature that the
configuration could not express, as experts or a rotation that it has no word for, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewise.exporter.checkpoint.errors import CheckpointError
from edgewise.exporter.checkpoint.gguf_architectures import GgufArchitecture
from edgewise.exporter.checkpoint.gguf_fields import GgufFields
from edgewise.exporter.checkpoint.gguf_header import TensorEntry
from edgewise.exporter.checkpoint.rotary_configuration import DEFAULT_THETA

GEMMA_3_27B_LAYERS = 62
REQUIRED = {  # config.json's key -> GGUF's, below the architecture's name
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
}


def rebuild_configuration(
    fields: GgufFields,
    architecture: GgufArchitecture,
    entries: Mapping[str, TensorEntry],
) -> dict[str, Any]:
    """Give the keys of a config.json; llama 3's rotary scaling is left to the caller.

    Args:
        fields: The file's fields.
        architecture: The file's architecture.
        entries: The file's tensors by GGUF name.

    Raises:
        CheckpointError: A field is missing or contradicts, or asks for what is not supported.
    """

    def key(name: str) -> str:
        return f"{architecture.name}.{name}"

    if fields.integer(key("expert_count")):
        raise CheckpointError(
            f"{fields.file_name} is a mixture of experts ({key('expert_count')} = "
            f"{fields.integer(key('expert_count'))}); dense models are accepted."
        )
    embedding = entries.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{fields.file_name} has no embedding matrix token_embd.weight.")
    config: dict[str, Any] = {
        "model_type": architecture.model_type,
        "architectures": [architecture.class_name],
        **{
            name: fields.required(fields.integer(key(ours)), key(ours))
            for name, ours in REQUIRED.items()
        },
    }
    for name, ours in REQUIRED.items():
        if not config[name]:
            raise CheckpointError(f"{fields.file_name} has {key(ours)} = 0.")
    heads = config["num_attention_heads"]
    key_value_heads = fields.integer(key("attention.head_count_kv"))
    config["num_key_value_heads"] = heads if key_value_heads is None else key_value_heads
    if not config["num_key_value_heads"] or heads % config["num_key_value_heads"]:
        raise CheckpointError(
            f"{fields.file_name} has {heads} attention heads over "
            f"{config['num_key_value_heads']} key/value heads, which do not divide."
        )
    head_size = fields.integer(key("attention.key_length"))
    if head_size is not None:
        config["head_dim"] = head_size
    rotated = _checked_head(fields, key, architecture, head_size or config["hidden_size"] // heads)
    epsilon = key(architecture.epsilon)
    theta = fields.number(key("rope.freq_base"))
    if theta is not None and theta <= 0:
        raise CheckpointError(f"{fields.file_name} has {key('rope.freq_base')} = {theta}.")
    config |= {
        "rms_norm_eps": fields.required(fields.number(epsilon), epsilon),
        "rope_theta": DEFAULT_THETA if theta is None else theta,
        "rope_scaling": _rotary_scaling(fields, key),
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in entries,
        "attention_bias": "blk.0.attn_q.bias" in entries,
        "mlp_bias": "blk.0.ffn_gate.bias" in entries,
        **rotated,
        **architecture.constants,
    }
    _check_gemmas_scale(fields, config)
    window = fields.integer(key("attention.sliding_window"))
    if window:
        config["sliding_window"] = window
    for name in ("bos", "eos", "padding"):
        identifier = fields.integer(f"tokenizer.ggml.{name}_token_id")
        if identifier is not None:
            config[f"{'pad' if name == 'padding' else name}_token_id"] = identifier
    return {architecture.keys.get(name, name): value for name, value in config.items()}


def rebuild_generation(fields: GgufFields, end_token_ids: tuple[int, ...]) -> dict[str, Any]:
    """Give the keys of a generation_config.json that the file recommends."""
    recommended = {
        "temperature": fields.number("general.sampling.temp"),
        "top_k": fields.integer("general.sampling.top_k"),
        "top_p": fields.number("general.sampling.top_p"),
        "min_p": fields.number("general.sampling.min_p"),
        "repetition_penalty": fields.number("general.sampling.penalty_repeat"),
    }
    generation: dict[str, Any] = {
        key: value for key, value in recommended.items() if value is not None
    }
    return {**generation, "eos_token_id": list(end_token_ids)}


def _checked_head(
    fields: GgufFields, key: Any, architecture: GgufArchitecture, head_size: int
) -> dict[str, Any]:
    """Return how much of a head rotates, where the architecture lets it be a part."""
    value_size = fields.integer(key("attention.value_length"))
    if value_size not in (None, head_size):
        raise CheckpointError(
            f"{fields.file_name} has heads of {head_size} for keys and {value_size} for values; "
            "equal sizes are accepted."
        )
    if architecture.rotates == "nothing":
        return {}
    rotated = fields.integer(key("rope.dimension_count"))
    if architecture.rotates == "a part of heads":
        rotated = head_size if rotated is None else rotated
        if head_size and 0 < rotated <= head_size and rotated % 2 == 0:
            return {"partial_rotary_factor": rotated / head_size}
        accepted = "an even number of them is accepted"
    elif rotated in (None, head_size) and head_size and head_size % 2 == 0:
        return {}
    else:
        accepted = "all of an even number are accepted"
    raise CheckpointError(
        f"{fields.file_name} rotates {rotated} of the {head_size} values of a head; {accepted}."
    )


def _check_gemmas_scale(fields: GgufFields, config: dict[str, Any]) -> None:
    """Refuse the one Gemma 3 whose scores have another scale, which the file does not say."""
    if config["model_type"] == "gemma3_text" and config["num_hidden_layers"] == GEMMA_3_27B_LAYERS:
        raise CheckpointError(
            f"{fields.file_name} is Gemma 3 27B, which scales its scores in a way that GGUF does "
            "not state. Give the Hugging Face folder instead."
        )


def _rotary_scaling(fields: GgufFields, key: Any) -> dict[str, Any] | None:
    kind = fields.text(key("rope.scaling.type"))
    factor = fields.number(key("rope.scaling.factor"))
    if factor is None:
        factor = fields.number(key("rope.scale_linear"))  # what older files write
        kind = "linear" if factor is not None and kind is None else kind
    if kind in (None, "none") or (kind == "linear" and factor in (None, 0.0, 1.0)):
        return None
    scaling: dict[str, Any] = {"rope_type": kind}
    if factor is not None:
        scaling["factor"] = factor
    original = fields.integer(key("rope.scaling.original_context_length"))
    if original is not None:
        scaling["original_max_position_embeddings"] = original
    return scaling

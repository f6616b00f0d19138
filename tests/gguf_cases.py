"""Tiny GGUF checkpoints with a type of its own for every tensor, as real files mix them.

The values are those of a tiny case (tiny_checkpoint.py), the names and the order of rows those of
llama.cpp's conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tiny_checkpoint import Case
from tokenizers import pre_tokenizers

PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_case(model_type: str, *, tied: bool, seed: int = 21) -> Case:
    """A model whose rows are whole super-blocks of 256."""
    config: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": 320,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
    }
    random = np.random.default_rng(seed)
    sequence = tuple(int(token) for token in random.integers(0, 320, 12))
    return Case(f"gguf-{model_type}", config, seed, (sequence,))


def write_tiny_gguf(case: Case, path: Path, type_of: Callable[[str], str]) -> Path:
    """Write a case as a GGUF file.

    Args:
        case: The model.
        path: The file.
        type_of: Gives the GGUF type of a matrix by its Hugging Face name; vectors are F32.
    """
    config, name = case.config, case.config["model_type"]
    head_size = config["hidden_size"] // config["num_attention_heads"]
    writer = gguf.GGUFWriter(path, name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(head_size)
    add_tokenizer(writer, config["vocab_size"])
    for tensor_name, values in case.tensors().items():
        stored = _in_file_order(tensor_name, values, config)
        kind = gguf.GGMLQuantizationType[type_of(tensor_name) if values.ndim == 2 else "F32"]
        raw = gguf.quantize(stored, kind)
        writer.add_tensor(_gguf_name(tensor_name), raw, raw_dtype=kind)
    write_out(writer)
    return path


def add_tokenizer(writer: gguf.GGUFWriter, count: int) -> None:
    """Add a byte-level BPE with two merges, and a chat template."""
    special = ["<begin>", "<end>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    merges = ["Ġ t", "h e"]
    normal = [*alphabet, *(merge.replace(" ", "") for merge in merges)]
    # As many tokens as rows: what is no token we never choose, and other programs do.
    normal += [f"filler{index}" for index in range(count - len(special + normal))]
    writer.add_token_list([*special, *normal])
    writer.add_token_types([3] * len(special) + [1] * len(normal))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{{ messages[0]['content'] }}")


def write_out(writer: gguf.GGUFWriter) -> None:
    """Write the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    if name in WHOLE:
        return WHOLE[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{PARTS[part]}.{kind}"


def _in_file_order(
    name: str, values: NDArray[np.float32], config: dict[str, Any]
) -> NDArray[np.float32]:
    """Reorder the rows that llama's conversion reorders (`LlamaModel.permute`)."""
    heads = {
        "q_proj.weight": config["num_attention_heads"],
        "k_proj.weight": config["num_key_value_heads"],
    }.get(name.rsplit("self_attn.", maxsplit=1)[-1])
    if heads is None or config["model_type"] != "llama":
        return values
    halves = values.reshape(heads, 2, len(values) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))

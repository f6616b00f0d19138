"""Write a checkpoint of `random_checkpoint.py` as a GGUF file, for llama.cpp to be compared with.

    python benchmarks/checkpoint_as_gguf.py /tmp/tinyllama /tmp/tinyllama.gguf
    llama-quantize /tmp/tinyllama.gguf /tmp/tinyllama-q4_0.gguf Q4_0

Shapes of the type "llama" alone. Weights stay float16; norms are float32, as llama.cpp wants them.
Rows of queries and keys are put into the order of GGUF, so that it computes the same model. The
vocabulary is a filler of the right size, with a token for each byte: what is compared is speed, by
token ids.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """Return what GGUF calls a tensor of a Hugging Face checkpoint."""
    if name in NAMES:
        return NAMES[name]
    number, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def interleaved(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Return rows of queries or keys in GGUF's order: halves of a head become neighbours.

    Args:
        weight: [heads * head size, features].
        heads: Of queries or of keys.
    """
    rows, features = weight.shape
    split = weight.reshape(heads, 2, rows // heads // 2, features)
    return split.swapaxes(1, 2).reshape(rows, features)


def convert(folder: Path, file: Path) -> None:
    """Write the file."""
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "llama":
        raise SystemExit(f"{folder} is of the type {config['model_type']!r}; accepted: llama")
    writer = gguf.GGUFWriter(file, "llama")
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_vocabulary(writer, config["vocab_size"])
    with safe_open(folder / "model.safetensors", "numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118  # it is no dictionary
            weight = tensors.get_tensor(name)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight = interleaved(weight, heads if "q_proj" in name else key_heads)
            if weight.ndim == 1:
                weight = weight.astype(np.float32)
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    kinds = gguf.TokenType
    tokens = ["<unk>", "<begin>", "<end>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256]
    fillers = size - len(tokens)
    tokens += [f"filler{index}" for index in range(fillers)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([*types, *[kinds.NORMAL] * fillers])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def main() -> int:
    """Parse and convert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    convert(arguments.folder, arguments.file)
    print(f"{arguments.folder} written to {arguments.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write a checkpoint of a published shape with random weights, to measure exports of that size.

    python benchmarks/random_checkpoint.py tinyllama-1.1b /tmp/tinyllama

Weights are float16 with the standard deviation that transformers initialises with; they are written
tensor by tensor, so memory stays small. The tokenizer has bytes and fillers.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from edgewise.exporter.models import find_model

SHAPES = {
    "tinyllama-1.1b": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
    "phi-2": {
        "model_type": "phi",
        "vocab_size": 51200,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "partial_rotary_factor": 0.4,
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
    "smollm2-135m": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
}
STANDARD_DEVIATION = 0.02


def write(shape: str, folder: Path) -> None:
    """Write config.json, model.safetensors and a tokenizer."""
    config = SHAPES[shape]
    definition = find_model(str(config["model_type"]))
    tensors = definition.tensors(definition.configuration(config))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + 2 * tensor.parameters
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little"))
        stream.write(encoded)
        for tensor in tensors.values():
            rows = tensor.shape[0]
            for start in range(0, rows, 1024):
                shape_of_chunk = (min(1024, rows - start), *tensor.shape[1:])
                values = random.standard_normal(shape_of_chunk, dtype=np.float32)
                values *= STANDARD_DEVIATION
                if tensor.role == "norm":
                    values += 1
                values.astype(np.float16).tofile(stream)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "tokenizer.json").write_text(_tokenizer(int(str(config["vocab_size"]))))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<begin>", "eos_token": "<end>"})
    )


def _tokenizer(vocabulary_size: int) -> str:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<begin>", "<end>", *alphabet]
    words += [f"<filler{index}>" for index in range(vocabulary_size - len(words))]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(word, special=True, normalized=False) for word in words[:2]]
    )
    return str(tokenizer.to_str())


def main() -> int:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write(arguments.shape, arguments.folder)
    print(f"{arguments.shape} written to {arguments.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

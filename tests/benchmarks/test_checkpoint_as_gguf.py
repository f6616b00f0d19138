"""A checkpoint as GGUF: names, the order of rows, and the vocabulary that llama.cpp needs."""

import json

import gguf
import numpy as np
import pytest
import random_checkpoint
from checkpoint_as_gguf import convert, interleaved

SHAPE = {
    **random_checkpoint.SHAPES["tinyllama-1.1b"],
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_halves_of_each_head_become_neighbours():
    rows = np.arange(16)[:, None]
    order = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert interleaved(rows, 2)[:, 0].tolist() == order


def test_a_file_that_readers_of_gguf_take(monkeypatch, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    monkeypatch.setitem(random_checkpoint.SHAPES, "tiny", SHAPE)
    random_checkpoint.write("tiny", tmp_path / "checkpoint")
    convert(tmp_path / "checkpoint", tmp_path / "out.gguf")

    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    with safetensors.safe_open(tmp_path / "checkpoint" / "model.safetensors", "numpy") as given:
        assert len(found) == len(list(given.keys())) == 2 * 9 + 3
        down = given.get_tensor("model.layers.1.mlp.down_proj.weight")
        keys = given.get_tensor("model.layers.0.self_attn.k_proj.weight")
    np.testing.assert_array_equal(found["blk.1.ffn_down.weight"], down)
    np.testing.assert_array_equal(found["blk.0.attn_k.weight"], interleaved(keys, 2))
    assert found["output_norm.weight"].dtype == np.float32
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == 300


def test_another_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "phi"}))
    with pytest.raises(SystemExit, match="'phi'; accepted: llama"):
        convert(tmp_path, tmp_path / "out.gguf")

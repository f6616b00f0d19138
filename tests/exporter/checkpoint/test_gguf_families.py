"""GGUF files of every decoder family compute what the Hugging Face folder does.

Names are those of the `gguf` package's own map; what conversion does to the numbers is done here.
"""

import dataclasses

import gguf
import numpy as np
import pytest
from gguf_cases import add_tokenizer, write_out
from tiny_checkpoint import ArraySource, TinyModel, load_case

from edgewise.exporter import open_checkpoint
from edgewise.exporter.checkpoint import CheckpointError, check_tensors
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models import find_model

# A tiny case, what of its configuration GGUF takes for granted, and further fields.
FAMILIES = {
    "qwen3": ("qwen3_tied", {}, {"attention.key_length": 32, "attention.value_length": 32}),
    "gemma3": (
        "gemma3_older_keys",
        {"sliding_window_pattern": 6, "num_hidden_layers": 7, "query_pre_attn_scalar": 32},
        {
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 9,
            "rope.freq_base": 1e6,
        },
    ),
    "phi2": ("phi_two_fifths_rotary", {}, {"rope.dimension_count": 32}),
    "phi3": ("phi3_window", {}, {"rope.dimension_count": 16, "attention.sliding_window": 7}),
    "phi3-long": (
        "phi3_long_rope",
        {},
        {"rope.dimension_count": 24, "rope.scaling.original_context_length": 64},
    ),
    "gpt2": ("gpt2_tied", {}, {}),
}
SIZES = {
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size", "n_embd"),
    "block_count": ("num_hidden_layers", "n_layer"),
    "attention.head_count": ("num_attention_heads", "n_head"),
}
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def tiny(family):
    name, change, fields = FAMILIES[family]
    case = load_case(name)
    return TinyModel(dataclasses.replace(case, config=case.config | change)), fields


def write_gguf(model, family, fields, path, *, packed=False):
    architecture = family.partition("-")[0]
    config, c = model.case.config, model.configuration
    writer = gguf.GGUFWriter(path, architecture)
    numbers = {
        name: next(config[key] for key in keys if key in config) for name, keys in SIZES.items()
    }
    numbers["attention.head_count_kv"] = c.key_value_heads
    numbers["feed_forward_length"] = c.intermediate_size
    epsilon = "layer_norm" if architecture in {"phi2", "gpt2"} else "layer_norm_rms"
    numbers[f"attention.{epsilon}_epsilon"] = c.norm_epsilon
    for name, value in (numbers | fields).items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{architecture}.{name}", value)
    add_tokenizer(writer, c.vocabulary_size)
    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, c.layers)
    arrays = dict(model.arrays)
    if packed:
        for layer in range(c.layers):
            for ending in ("weight", "bias"):
                prefix = f"model.layers.{layer}.self_attn"
                parts = [arrays.pop(f"{prefix}.{part}_proj.{ending}") for part in "qkv"]
                writer.add_tensor(f"blk.{layer}.attn_qkv.{ending}", np.concatenate(parts))
    for name, array in arrays.items():
        stored = array
        if architecture == "gemma3" and name.endswith("norm.weight"):
            stored = array + np.float32(1)
        if architecture == "gpt2" and name.endswith(TRANSPOSED):
            stored = np.ascontiguousarray(array.T)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), stored)
    for name, factors in (config.get("rope_scaling") or {}).items():
        if name.endswith("_factor"):
            length = name.removesuffix("_factor")
            writer.add_tensor(f"rope_factors_{length}.weight", np.float32(factors))
    write_out(writer)
    return path


def logits(model, checkpoint):
    definition = find_model(checkpoint.config["model_type"])
    configuration = definition.configuration(checkpoint.config)
    tensors = definition.tensors(configuration)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    check_tensors(checkpoint.tensors, shapes, definition.ignored)

    def weight(name):
        return Weight(name, tensors[name].role, ArraySource(checkpoint.tensors[name].read()))

    builder = NumpyBuilder(np.asarray([model.case.sequences[0]]))
    definition.forward(builder, configuration, weight)
    return builder.logits


def reference(model):
    builder = NumpyBuilder(np.asarray([model.case.sequences[0]]))
    model.forward(builder)
    return builder.logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_computes_what_the_folder_does(tmp_path, family):
    model, fields = tiny(family)
    path = write_gguf(model, family, fields, tmp_path / "tiny.gguf")
    expected = reference(model)
    with open_checkpoint(str(path)) as checkpoint:
        assert np.abs(logits(model, checkpoint) - expected).max() < 1e-4
    assert np.ptp(expected) > 1


def test_old_files_pack_queries_keys_and_values(tmp_path):
    model, fields = tiny("phi2")
    path = write_gguf(model, "phi2", fields, tmp_path / "tiny.gguf", packed=True)
    name = "model.layers.1.self_attn.k_proj.weight"
    with open_checkpoint(str(path)) as checkpoint:
        assert np.array_equal(checkpoint.tensors[name].read(), model.arrays[name])
        assert np.abs(logits(model, checkpoint) - reference(model)).max() < 1e-4


def test_a_pack_of_another_height_is_refused(tmp_path):
    model, fields = tiny("phi2")
    wrong = fields | {"attention.key_length": 40, "attention.value_length": 40}
    path = write_gguf(model, "phi2", wrong, tmp_path / "tiny.gguf", packed=True)
    with pytest.raises(CheckpointError, match=r"attn_qkv.* has 480 rows, not the 240"):
        open_checkpoint(str(path))


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("phi2", {"rope.dimension_count": 33}, "rotates 33 of the 80.*an even number"),
        ("phi2", {"rope.dimension_count": 96}, "rotates 96 of the 80"),
        ("qwen3", {"rope.dimension_count": 16}, "rotates 16 of the 32.*all of an even number"),
        ("gemma3", {"block_count": 62}, "Gemma 3 27B"),
    ],
)
def test_what_can_not_be_said_is_refused(tmp_path, family, change, message):
    model, fields = tiny(family)
    path = write_gguf(model, family, fields | change, tmp_path / "tiny.gguf")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(path))


def test_factors_of_one_length_alone_are_refused(tmp_path):
    model, fields = tiny("phi3-long")
    model.case.config["rope_scaling"].pop("long_factor")
    path = write_gguf(model, "phi3-long", fields, tmp_path / "tiny.gguf")
    with pytest.raises(CheckpointError, match=r"lacks rope_factors_long\.weight"):
        open_checkpoint(str(path))

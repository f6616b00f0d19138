"""Exports whose prompt and ids come from what is known of the model's family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_checkpoint import TEMPLATE
from tiny_families import TinyEncoderDecoder
from tiny_family_folders import write_family_folder
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from edgewise.exporter import export
from edgewise.exporter.prompts import PromptError, find_prompt
from edgewise.runtime import GenerationOptions, load
from edgewise.runtime.chat import ChatError
from edgewise.runtime.sequence_model import SequenceModel

BOARD = "raspberry_pi_5"
HIDDEN = 32
LITELLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 50304,
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "layernorm_epsilon": 1e-5,
    # The published configuration has these ids, although its vocabulary is GPT-2's.
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def gpt2_like_tokenizer() -> Tokenizer:
    """Make a byte-level tokenizer in which 2 is "#" and 50256 the end, as in GPT-2's."""
    texts = ["!", '"', "#", *sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set('!"#'))]
    vocabulary = {text: number for number, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE({**vocabulary, "<|endoftext|>": 50256}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>")])
    return tokenizer


@pytest.fixture
def litellama(tmp_path: Path) -> Path:
    """Write a checkpoint that always says "#", and would rather say what is no token."""
    random = np.random.default_rng(5)

    def small(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return random.normal(0, 0.01, shape).astype(np.float32)

    embedding, head = small(50304, HIDDEN), small(50304, HIDDEN)
    embedding[:, 0] = 1.0
    head[2, 0] = 1.0
    head[50257:, 0] = 2.0
    layer = "model.layers.0"
    tensors = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": head,
        "model.norm.weight": np.ones(HIDDEN, np.float32),
        f"{layer}.input_layernorm.weight": np.ones(HIDDEN, np.float32),
        f"{layer}.post_attention_layernorm.weight": np.ones(HIDDEN, np.float32),
        f"{layer}.self_attn.q_proj.weight": small(32, HIDDEN),
        f"{layer}.self_attn.k_proj.weight": small(16, HIDDEN),
        f"{layer}.self_attn.v_proj.weight": small(16, HIDDEN),
        f"{layer}.self_attn.o_proj.weight": small(HIDDEN, 32),
        f"{layer}.mlp.gate_proj.weight": small(32, HIDDEN),
        f"{layer}.mlp.up_proj.weight": small(32, HIDDEN),
        f"{layer}.mlp.down_proj.weight": small(HIDDEN, 32),
    }
    folder = tmp_path / "LiteLlama-460M-1T"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(LITELLAMA))
    gpt2_like_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def test_litellama_goes_on_behind_a_hash(litellama: Path, tmp_path: Path) -> None:
    bundle = export(str(litellama), profile=BOARD, output=tmp_path / "bundle", recipe="fp32").bundle
    manifest = bundle.manifest
    assert manifest.tokens.end == (50256,)
    assert (manifest.tokens.beginning, manifest.tokens.padding) == (50256, 50256)
    assert (manifest.vocabulary_size, manifest.sampled_vocabulary) == (50304, 50257)
    assert manifest.stop == ("\n",)
    assert manifest.chat is not None
    assert manifest.chat.rendered == "Q: What is the capital of France?\nA:"
    with load(bundle.path, threads=1) as model:
        answer = model.generate("Why?", GenerationOptions(max_tokens=6))
        sampled = model.generate("Why?", GenerationOptions(max_tokens=6, temperature=5.0, seed=1))
    assert answer.token_ids == (2,) * 6
    assert (answer.text, answer.finish_reason) == ("#" * 6, "length")
    assert max(sampled.token_ids) < 50257


def test_a_prompt_asked_for_replaces_the_checkpoints(tiny_folder: Any, tmp_path: Path) -> None:
    folder = str(tiny_folder("llama_tied_wide_head"))
    settings: dict[str, Any] = {"profile": BOARD, "recipe": "fp32", "verification": False}
    own = export(folder, output=tmp_path / "own", **settings).bundle
    assert own.read_text("chat_template") == TEMPLATE
    assert own.manifest.stop == ()
    other = export(folder, output=tmp_path / "other", prompt="phi-2-instruct", **settings).bundle
    assert other.read_text("chat_template") == find_prompt("phi-2-instruct").template
    assert other.manifest.stop == ("\nInstruct:", "\nInstruction:")
    assert other.manifest.chat is not None
    assert other.manifest.chat.rendered == "Instruct: What is the capital of France?\nOutput:"
    with pytest.raises(PromptError, match="'phi-2' is unknown"):
        export(folder, output=tmp_path / "none", prompt="phi-2", **settings)
    assert not (tmp_path / "none").exists()


def test_an_encoder_decoder_is_asked_by_a_prompt_too(tmp_path: Path) -> None:
    folder = write_family_folder(TinyEncoderDecoder("t5_v1_1"), tmp_path / "t5")
    settings: dict[str, Any] = {"profile": BOARD, "recipe": "fp32", "verification": False}
    bundle = export(
        str(folder), output=tmp_path / "bundle", prompt="flan-options", **settings
    ).bundle
    question = "Is it warm?\n- yes\n- no"
    source = "Is it warm?\n\nOPTIONS:\n- yes\n- no"
    with load(bundle.path, threads=1) as model:
        assert isinstance(model, SequenceModel)
        raw = GenerationOptions(max_tokens=8, raw=True)
        expected = model.generate(source, raw)
        assert model.generate(question, GenerationOptions(max_tokens=8)).token_ids == (
            expected.token_ids
        )
        messages = [{"role": "user", "content": question}]
        assert model.generate(messages, GenerationOptions(max_tokens=8)).token_ids == (
            expected.token_ids
        )
        assert model.count_tokens(question) == model.count_tokens(source, raw=True)
        assert model.count_tokens(question) != model.count_tokens(question, raw=True)
        with pytest.raises(ChatError, match="must be a text"):
            model.generate(messages, raw)
        with pytest.raises(ChatError, match="one message of the user"):
            model.generate([{"role": "system", "content": "x"}])


def test_a_mode_of_ul2_leaves_its_source_open(tmp_path: Path) -> None:
    folder = str(write_family_folder(TinyEncoderDecoder("t5_ul2"), tmp_path / "t5"))
    settings: dict[str, Any] = {"profile": BOARD, "recipe": "fp32", "verification": False}
    counts = {}
    for prompt in ("ul2-s2s", "ul2-nlg"):
        bundle = export(folder, output=tmp_path / prompt, prompt=prompt, **settings).bundle
        assert bundle.manifest.tokens.ends_source is (prompt == "ul2-s2s")
        with load(bundle.path, threads=1) as model:
            assert isinstance(model, SequenceModel)
            plain = model.tokenizer.encode(f"[{prompt[4:].upper()}] a river <extra_id_0>")
            counts[prompt] = model.count_tokens("a river") - len(plain)
    assert counts == {"ul2-s2s": 1, "ul2-nlg": 0}

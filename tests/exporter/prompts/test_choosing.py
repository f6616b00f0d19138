"""The right prompt is chosen for a checkpoint, and wrong ids are corrected."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models

from edgewise.exporter.checkpoint import Checkpoint, Origin, TokenizerFiles
from edgewise.exporter.prompts import PromptError, find_prompt
from edgewise.exporter.prompts.choosing import apply_prompts

GPT2 = {"#": 2, "<|endoftext|>": 50256}
LLAMA = {"<unk>": 0, "<s>": 1, "</s>": 2}
ORCA = {**LLAMA, "[PAD]": 32000, "<|im_start|>": 32001, "<|im_end|>": 32002}


def checkpoint(
    name: str,
    config: dict[str, Any],
    tokens: dict[str, int],
    *,
    end: tuple[int, ...] = (2,),
    template: str | None = None,
) -> Checkpoint:
    inner = Tokenizer(models.WordLevel(tokens, unk_token=next(iter(tokens))))
    inner.add_special_tokens([AddedToken(text) for text in tokens if text != "#"])
    files = TokenizerFiles(
        tokenizer_json=inner.to_str(),
        chat_template=template,
        beginning_token_id=1,
        end_token_ids=end,
        padding_token_id=0,
        beginning_token=None,
        end_token=None,
        add_beginning_token=False,
    )
    return Checkpoint(Origin("folder", name, None, "safetensors", None), config, {}, {}, files)


def litellama(**changes: Any) -> Checkpoint:
    config = {"model_type": "llama", "vocab_size": 50304}
    return checkpoint("LiteLlama-460M-1T", config, GPT2, **changes)


def phi(name: str, hidden: int, **config: Any) -> Checkpoint:
    config = {"model_type": "phi", "vocab_size": 51200, "hidden_size": hidden} | config
    return checkpoint(name, config, GPT2)


def test_litellama_does_not_end_at_a_hash() -> None:
    files = apply_prompts(litellama()).tokenizer
    assert files.end_token_ids == (50256,)  # 2 is "#"
    assert (files.beginning_token_id, files.padding_token_id) == (50256, 50256)
    assert (files.beginning_token, files.end_token) == ("<|endoftext|>", "<|endoftext|>")
    assert files.sampled_vocabulary == 50257
    assert files.chat_template == find_prompt("litellama-qa").template
    assert files.stop == ("\n",)


def test_ids_are_corrected_whatever_the_template() -> None:
    files = apply_prompts(litellama(template="own")).tokenizer
    assert (files.chat_template, files.stop) == ("own", ())
    assert files.end_token_ids == (50256,)


def test_a_llama_of_another_vocabulary_is_left_alone() -> None:
    for config, tokens in (
        ({"model_type": "llama", "vocab_size": 50304}, {**GPT2, "<|endoftext|>": 0}),
        ({"model_type": "llama", "vocab_size": 50257}, GPT2),
        ({"model_type": "gpt2", "vocab_size": 50304}, GPT2),
    ):
        before = checkpoint("LiteLlama", config, tokens)
        assert apply_prompts(before) == before


def test_orca_ends_at_both_ids() -> None:
    config = {"model_type": "llama", "vocab_size": 32003}
    files = apply_prompts(checkpoint("Orca-2-7b", config, ORCA)).tokenizer
    assert files.end_token_ids == (2, 32002)
    assert (files.padding_token_id, files.end_token) == (32000, "</s>")
    assert files.chat_template == find_prompt("orca-2").template
    assert files.sampled_vocabulary is None


@pytest.mark.parametrize(
    ("name", "hidden", "config", "prompt"),
    [
        ("phi-2", 2560, {}, "phi-2-instruct"),
        ("mine", 2560, {}, "phi-2-instruct"),
        ("phi-1_5", 2048, {}, "phi-answer"),
        ("microsoft/phi-1.5", 2048, {}, "phi-answer"),
        ("phi-1", 2048, {}, "phi-1-docstring"),
        ("mine", 2048, {"_name_or_path": "microsoft/phi-1"}, "phi-1-docstring"),
        ("mine", 2048, {}, None),
        ("TinyGSM-phi-1.5", 2048, {}, "tinygsm"),
        ("tinygsm-125M", 768, {}, "tinygsm"),
    ],
)
def test_phis_are_told_apart(
    name: str, hidden: int, config: dict[str, Any], prompt: str | None
) -> None:
    files = apply_prompts(phi(name, hidden, **config)).tokenizer
    expected = None if prompt is None else find_prompt(prompt).template
    assert files.chat_template == expected
    assert files.sampled_vocabulary == 50295
    assert files.end_token_ids == (50256,)


def test_old_keys_of_a_configuration_count_too() -> None:
    config = {"model_type": "phi-msft", "vocab_size": 51200, "n_embd": 2560}
    files = apply_prompts(checkpoint("mine", config, GPT2)).tokenizer
    assert files.chat_template == find_prompt("phi-2-instruct").template


@pytest.mark.parametrize(
    ("name", "prompt"),
    [("TinyLlama-1.1B-Chat-v1.0", "tinyllama-chat"), ("TinyLlama_v1.1", None), ("other", None)],
)
def test_only_the_chat_version_of_tinyllama_chats(name: str, prompt: str | None) -> None:
    config = {"model_type": "llama", "vocab_size": 32000}
    files = apply_prompts(checkpoint(name, config, LLAMA)).tokenizer
    assert files.chat_template == (None if prompt is None else find_prompt(prompt).template)


def test_a_prompt_asked_for_by_name_replaces_the_template() -> None:
    files = apply_prompts(litellama(template="own"), "phi-2-instruct").tokenizer
    assert files.chat_template == find_prompt("phi-2-instruct").template
    assert files.stop == ("\nInstruct:", "\nInstruction:")
    with pytest.raises(PromptError, match="'phi-3' is unknown"):
        apply_prompts(litellama(), "phi-3")


def test_some_modes_of_ul2_leave_the_text_open() -> None:
    config = {"model_type": "t5", "vocab_size": 32128}
    opened = checkpoint("ul2", config, LLAMA)
    assert apply_prompts(opened).tokenizer.chat_template is None
    assert apply_prompts(opened, "ul2-s2s").tokenizer.ends_source
    assert not apply_prompts(opened, "ul2-nlg").tokenizer.ends_source


def test_two_that_match_are_not_chosen_between(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewise.exporter.prompts import choosing

    both = (*choosing.families(), *choosing.families())
    monkeypatch.setattr(choosing, "families", lambda: both)
    with pytest.raises(PromptError, match="litellama-qa and litellama-qa both suit it; choose"):
        apply_prompts(litellama())

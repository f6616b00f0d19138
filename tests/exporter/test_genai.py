"""A decoder bundle is a model folder of onnxruntime-genai as it is: unchanged, same ids."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from bundle_files import change_json
from gguf_cases import gguf_case, write_tiny_gguf
from tiny_checkpoint import load_case, write_checkpoint

from edgewise.exporter import export
from edgewise.runtime import GenerationOptions, load

genai = pytest.importorskip("onnxruntime_genai", reason="its wheels do not exist everywhere")

PROMPTS = ("Hello, who are you?", "12 + 30 =", "Größe: 👍🏽")


def generated(model: object, prompt_ids: Sequence[int], count: int, length: int) -> list[int]:
    """Generate greedily in onnxruntime-genai."""
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=length, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(list(prompt_ids))
    ids: list[int] = []
    while not generator.is_done() and len(ids) < count:
        generator.generate_next_token()
        ids.append(int(generator.get_next_tokens()[0]))
    return ids


def assert_both_agree(folder: Path, prompts: Sequence[str], count: int) -> None:
    theirs = genai.Model(str(folder))
    tokenizer = genai.Tokenizer(theirs)
    with load(folder) as ours:
        if ours.manifest.tokens.add_beginning:
            tokenizer.update_options(add_special_tokens="true")  # it adds none unless asked
        for probe in ours.manifest.probes:
            ids = tokenizer.encode(probe.text)
            assert [int(token) for token in ids] == list(probe.ids), probe.text
            if probe.text:
                plain = ours.tokenizer.decode(probe.ids)  # special tokens are left out
                assert tokenizer.decode(ids).removeprefix("<begin>") == plain
        for prompt in prompts:
            prompt_ids = ours.tokenizer.encode(prompt)
            options = GenerationOptions(max_tokens=count, temperature=0, raw=True)
            answer = ours.generate(prompt, options)
            limit = ours.manifest.context_length
            assert generated(theirs, prompt_ids, count, limit) == list(answer.token_ids)


@pytest.mark.parametrize(
    "name", ["llama_tied_wide_head", "llama_llama3_scaling", "qwen2_tied", "qwen2_untied"]
)
@pytest.mark.parametrize("recipe", ["fp32", "fp16", "int8", "int4", "int4,activations=float32"])
def test_a_bundle_generates_the_same_ids_in_onnxruntime_genai(tiny_folder, tmp_path, name, recipe):
    report = export(
        str(tiny_folder(name)),
        profile="raspberry_pi_5",
        output=tmp_path / "bundle",
        recipe=recipe,
        verification=False,
    )
    assert_both_agree(report.bundle.path, PROMPTS, 16)


@pytest.mark.parametrize("cache", ["float32", "float16", "int8"])
def test_a_bundle_does_so_with_keys_and_values_of_every_type(tiny_folder, tmp_path, cache):
    report = export(
        str(tiny_folder("llama_tied_wide_head")),
        profile="raspberry_pi_5",
        output=tmp_path / "bundle",
        cache_dtype=cache,
        verification=False,
    )
    assert report.bundle.manifest.cache.dtype == cache
    assert_both_agree(report.bundle.path, PROMPTS, 16)


@pytest.mark.parametrize(
    "name", ["phi_half_rotary", "phi3_long_rope", "qwen3_tied", "gemma3_windows", "gpt2_tied"]
)
def test_a_bundle_of_every_other_family_does_too(tiny_folder, tmp_path, name):
    report = export(
        str(tiny_folder(name)),
        profile="raspberry_pi_5",
        output=tmp_path / "bundle",
        recipe="fp32",
        verification=False,
    )
    assert_both_agree(report.bundle.path, PROMPTS, 16)


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_a_bundle_of_a_gguf_file_does_too(tmp_path, model_type):
    kinds = {"q_proj": "Q4_1", "k_proj": "Q8_0", "v_proj": "F16"}
    path = write_tiny_gguf(
        gguf_case(model_type, tied=model_type == "llama"),
        tmp_path / "tiny.gguf",
        lambda name: next((kind for part, kind in kinds.items() if part in name), "Q4_0"),
    )
    report = export(
        str(path),
        profile="raspberry_pi_5",
        output=tmp_path / "bundle",
        recipe="keep",
        verification=False,
    )
    assert_both_agree(report.bundle.path, PROMPTS, 10)


def test_it_stops_where_we_stop(tmp_path):
    """Every id is an end token but the first generated: both end right behind it."""
    folder = write_checkpoint(load_case("llama_tied_wide_head"), tmp_path / "checkpoint")
    first = {}
    for ends in ([1], [*range(300)]):
        change_json(folder / "generation_config.json", eos_token_id=ends)
        report = export(
            str(folder),
            profile="raspberry_pi_5",
            output=tmp_path / "bundle",
            recipe="fp32",
            verification=False,
        )
        theirs = genai.Model(str(report.bundle.path))
        with load(report.bundle.path) as ours:
            prompt_ids = ours.tokenizer.encode("Hi")
            answer = ours.generate("Hi", GenerationOptions(max_tokens=9, raw=True))
        first[len(ends)] = list(answer.token_ids)
        assert generated(theirs, prompt_ids, 9, 128) == list(answer.token_ids)
    assert first[300] == first[1][:1]


@pytest.mark.parametrize("without", ["template", "special tokens", "both"])
def test_what_a_checkpoint_lacks_does_not_keep_genai_from_loading(tmp_path, without):
    folder = write_checkpoint(load_case("qwen2_tied"), tmp_path / "checkpoint")
    if without in ("template", "both"):
        change_json(folder / "tokenizer_config.json", chat_template=None)
    if without in ("special tokens", "both"):
        change_json(folder / "tokenizer_config.json", eos_token=None, bos_token=None)
        change_json(folder / "config.json", eos_token_id=None, bos_token_id=None)
        (folder / "generation_config.json").unlink()
    report = export(
        str(folder),
        profile="raspberry_pi_5",
        output=tmp_path / "bundle",
        recipe="fp32",
        verification=False,
    )
    assert_both_agree(report.bundle.path, PROMPTS[:1], 5)


def test_a_beginning_token_that_the_manifest_adds_is_added_by_genai_too(tmp_path):
    folder = write_checkpoint(load_case("llama_tied_wide_head"), tmp_path / "checkpoint")
    change_json(folder / "tokenizer_config.json", add_bos_token=True)
    report = export(
        str(folder),
        profile="raspberry_pi_5",
        output=tmp_path / "bundle",
        recipe="fp32",
        verification=False,
    )
    assert report.bundle.manifest.tokens.add_beginning
    assert all(probe.ids[0] == 0 for probe in report.bundle.manifest.probes)
    assert_both_agree(report.bundle.path, PROMPTS[:1], 5)


def test_chat_messages_are_rendered_alike(bundle):
    theirs = genai.Model(str(bundle.path))
    tokenizer = genai.Tokenizer(theirs)
    chat = bundle.manifest.chat
    assert chat is not None
    messages = json.dumps(list(chat.messages))
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True) == chat.rendered


@pytest.mark.real
@pytest.mark.parametrize("recipe", [None, "keep"])
def test_the_real_smollm2(smollm2, recipe):
    bundle = smollm2(recipe).bundle
    prompts = ("Water boils at a temperature of 100 degrees Celsius, and", "def average(values):")
    assert_both_agree(bundle.path, [bundle.manifest.chat.rendered, *prompts], 16)

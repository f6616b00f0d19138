"""What the manifest and the other texts of an exported bundle say."""

import dataclasses
import json

import pytest
from bundle_files import change_json
from tiny_checkpoint import TEMPLATE, load_case

from edgewise.common.files import sha256_of_file
from edgewise.exporter import export
from edgewise.exporter.comparison import GATES

BOARD = "raspberry_pi_5"


def test_the_manifest_says_what_was_made(bundle):
    manifest = bundle.manifest
    tensors = load_case("llama_tied_wide_head").tensors()
    assert manifest.model_id == "llama_tied_wide_head"
    assert manifest.architecture == "llama"
    assert manifest.parameters == sum(array.size for array in tensors.values())
    assert manifest.recipe == "fp32"
    assert manifest.formats == dict.fromkeys(("embedding", "attention", "mlp", "head"), "fp32")
    assert manifest.profile == BOARD
    assert dataclasses.asdict(manifest.origin) == {
        "kind": "folder",
        "name": "llama_tied_wide_head",
        "revision": None,
        "file_type": "safetensors",
        "license": None,
    }
    assert manifest.context_length == 128
    assert manifest.vocabulary_size == 300
    assert (manifest.cache.layers, manifest.cache.key_value_heads) == (3, 2)
    assert (manifest.cache.head_size, manifest.cache.dtype) == (32, "float32")
    assert manifest.threads == 4
    assert manifest.execution_providers == ("CPUExecutionProvider",)
    assert manifest.tokens.end == (1,)
    assert manifest.tokens.end_text == "<end>"
    assert set(manifest.minimum_versions) == {"onnxruntime", "tokenizers"}


def test_the_manifest_lists_every_file_with_size_and_hash(bundle):
    listed = {file.path: (file.bytes, file.sha256) for file in bundle.manifest.files}
    on_disk = {
        path.name: (path.stat().st_size, sha256_of_file(path))
        for path in bundle.path.iterdir()
        if path.name != "manifest.json"
    }
    assert listed == on_disk
    assert {file.role for file in bundle.manifest.files} == {
        "graph",
        "weights",
        "tokenizer",
        "tokenizer_config",
        "chat_template",
        "genai_config",
    }


def test_probes_are_what_the_checkpoints_own_tokenizer_gives(bundle, tiny_folder):
    from tokenizers import Tokenizer

    text = (tiny_folder("llama_tied_wide_head") / "tokenizer.json").read_text()
    tokenizer = Tokenizer.from_str(text)
    probes = bundle.manifest.probes
    assert len(probes) >= 6
    assert any(not probe.text.isascii() for probe in probes)
    for probe in probes:
        assert list(probe.ids) == tokenizer.encode(probe.text).ids
        assert tokenizer.decode(list(probe.ids), skip_special_tokens=False) == probe.text
    assert [probe.text for probe in probes if 1 in probe.ids] == ["<end>word<end>\nline <end> end"]


def test_the_chat_sample_is_the_rendered_template(bundle):
    assert bundle.read_text("chat_template") == TEMPLATE
    chat = bundle.manifest.chat
    assert chat is not None
    content = chat.messages[0]["content"]
    assert chat.rendered == f"user: {content}\nassistant: "


def test_the_figures_of_the_verification_are_kept(bundle):
    figures = bundle.manifest.verification
    assert figures is not None
    assert figures["passed"] is True
    assert figures["top1_agreement"] == 1.0
    assert figures["mean_divergence"] < 1e-6
    assert figures["largest_difference"] < 1e-4 * max(1, figures["largest_logit"])
    assert figures["gate"] == dataclasses.asdict(GATES[32])
    assert figures["positions"] == 4 * 25  # texts, each 24 tokens of prompt and 24 steps


def test_sampling_defaults_are_what_the_checkpoint_advises(checkpoint, tmp_path):
    change_json(
        checkpoint / "generation_config.json",
        do_sample=True,
        temperature=0.6,
        top_p=0.9,
        top_k=40,
        repetition_penalty=1.1,
        eos_token_id=[1, 5],
    )
    report = export(str(checkpoint), profile=BOARD, output=tmp_path / "bundle", recipe="fp32")
    manifest = report.bundle.manifest
    assert dataclasses.asdict(manifest.defaults) == {
        "temperature": 0.6,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": None,
        "repetition_penalty": 1.1,
    }
    assert manifest.tokens.end == (1, 5)
    config = json.loads(report.bundle.read_text("genai_config"))
    assert config["model"]["eos_token_id"] == [1, 5]
    search = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 40}
    assert search.items() <= config["search"].items()


def test_nothing_in_a_bundle_names_the_machine_it_was_made_on(bundle, tiny_folder):
    secrets = [str(tiny_folder("llama_tied_wide_head").parent), str(bundle.path.parent)]
    for path in bundle.path.iterdir():
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path.name


@pytest.mark.parametrize(("given", "written"), [("<begin>", "<begin>"), (None, "<end>")])
def test_tokenizer_config_names_the_special_tokens(checkpoint, tmp_path, given, written):
    change_json(checkpoint / "tokenizer_config.json", pad_token=given)
    report = export(str(checkpoint), profile=BOARD, output=tmp_path / "bundle", recipe="fp32")
    config = json.loads(report.bundle.read_text("tokenizer_config"))
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "bos_token": "<begin>",
        "eos_token": "<end>",
        "pad_token": written,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }

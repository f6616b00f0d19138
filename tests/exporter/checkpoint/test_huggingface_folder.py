"""Hugging Face folders: one file or shards, both generations of configuration, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, processors

from edgewise.exporter.checkpoint import CheckpointError, open_checkpoint
from edgewise.exporter.checkpoint.rotary_configuration import with_one_rotary_form


def rewrite(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content |= changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_folder_opens_whole(make_folder: Any) -> None:
    folder, original = make_folder()
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": [257]}')
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\n")
    with open_checkpoint(str(folder)) as checkpoint:
        assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {
            name: values.shape for name, values in original.items()
        }
        for name, values in original.items():
            assert np.array_equal(checkpoint.tensors[name].read(), values)
        origin = checkpoint.origin
        assert (origin.kind, origin.name, origin.file_type) == (
            "folder",
            "small-model",
            "safetensors",
        )
        assert (origin.license, origin.revision) == ("apache-2.0", None)
        assert checkpoint.config["rope_theta"] == 10000.0
        assert checkpoint.config["rope_scaling"] is None
        assert checkpoint.generation == {"temperature": 0.6, "eos_token_id": [257]}
        files = checkpoint.tokenizer
        assert files.tokenizer_json == (folder / "tokenizer.json").read_text()
        assert (files.beginning_token_id, files.beginning_token) == (256, "<s>")
        assert (files.end_token_ids, files.end_token) == ((257,), "</s>")
        assert not files.add_beginning_token


def test_norms_under_their_old_names_are_found(make_folder: Any) -> None:
    folder, _ = make_folder()
    weight, bias = np.arange(4, dtype=np.float32), np.ones(4, np.float32)
    old = {"a.LayerNorm.gamma": weight, "a.LayerNorm.beta": bias, "b.gamma": bias}
    save_file(old, folder / "model.safetensors")
    with open_checkpoint(str(folder)) as checkpoint:
        read = {name: tensor.read() for name, tensor in checkpoint.tensors.items()}
    assert read.keys() == {"a.LayerNorm.weight", "a.LayerNorm.bias", "b.gamma"}
    assert np.array_equal(read["a.LayerNorm.weight"], weight)
    assert np.array_equal(read["a.LayerNorm.bias"], bias)


def test_a_path_with_a_slash_at_its_end_keeps_its_name(make_folder: Any) -> None:
    folder, _ = make_folder()
    with open_checkpoint(f"{folder}/") as checkpoint:
        assert checkpoint.origin.name == "small-model"


def shard(folder: Path, original: dict[str, Any]) -> dict[str, str]:
    """Split the tensors over two files and an index."""
    (folder / "model.safetensors").unlink()
    placed = {}
    for number, (name, values) in enumerate(original.items()):
        file = f"model-{number + 1:05}-of-00002.safetensors"
        save_file({name: values}, folder / file)
        placed[name] = file
    rewrite(folder / "model.safetensors.index.json", metadata={}, weight_map=placed)
    return placed


def test_shards_give_the_same_tensors(make_folder: Any) -> None:
    folder, original = make_folder()
    shard(folder, original)
    with open_checkpoint(str(folder)) as checkpoint:
        assert set(checkpoint.tensors) == set(original)
        for name, values in original.items():
            assert np.array_equal(checkpoint.tensors[name].read(), values)


@pytest.mark.parametrize(
    ("placed", "message"),
    [
        (
            {"a": "model-00001-of-00002.safetensors", "b": "gone.safetensors"},
            "lacks gone.safetensors",
        ),
        ({"a": "../model.safetensors"}, "a .safetensors file beside it is accepted"),
        ({"a": "pytorch_model.bin"}, "a .safetensors file beside it is accepted"),
        ({"a": 3}, "a .safetensors file beside it is accepted"),
        ({"x": "model-00001-of-00002.safetensors"}, r"their shards lack: x \(model-00001"),
        ({}, "has no weight_map"),
        ([], "has no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(make_folder: Any, placed: object, message: str) -> None:
    folder, original = make_folder()
    shard(folder, original)
    rewrite(folder / "model.safetensors.index.json", weight_map=placed)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(folder))


def test_weights_that_are_not_read(make_folder: Any) -> None:
    folder, original = make_folder()
    weights = folder / "model.safetensors"
    weights.rename(folder / "weights.safetensors")
    with open_checkpoint(str(folder)) as checkpoint:  # a single file of any name
        assert set(checkpoint.tensors) == set(original)
    save_file(original, folder / "more.safetensors")
    with pytest.raises(CheckpointError, match=r"several .*more\.safetensors, weights\.safetensors"):
        open_checkpoint(str(folder))
    for file in folder.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        open_checkpoint(str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(
        CheckpointError, match=r"pickle only \(pytorch_model\.bin\).*save_pretrained"
    ):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_a_pickle_file_is_refused_unread(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(CheckpointError, match=r"is a pickle file.*can run code.*from_pretrained"):
        open_checkpoint(str(path))


def test_other_locations_say_what_is_accepted(tmp_path: Path, make_folder: Any) -> None:
    folder, _ = make_folder()
    for location, message in (
        ("", "No checkpoint was given; accepted are a Hugging Face folder"),
        (str(tmp_path / "none"), "does not exist; accepted are"),
        (str(folder / "model.safetensors"), "holds weights only; give its folder"),
        (str(folder / "config.json"), "is no checkpoint; accepted are"),
        (str(tmp_path), "has no config.json"),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(location)


def test_configurations_that_are_refused(make_folder: Any) -> None:
    folder, _ = make_folder()
    path = folder / "config.json"
    for content, message in (
        ("{", "config.json is no valid JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "names no model_type"),
        ('{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}', "method gptq"),
        ('{"model_type": "llama", "rope_scaling": 3}', "rope_scaling = 3"),
        ('{"model_type": "llama", "rope_theta": "x"}', "rope_theta = 'x'"),
    ):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(str(folder))


LLAMA3 = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("written", "theta", "scaling"),
    [
        ({}, 10000.0, None),
        ({"rope_theta": 100000}, 100000.0, None),
        ({"rope_theta": 1e6, "rope_scaling": None}, 1e6, None),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 10000.0,
         {"rope_type": "linear", "factor": 2.0}),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, 5e5,
         {"rope_type": "llama3", **LLAMA3}),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "type": "llama3", **LLAMA3}},
         5e5, {"rope_type": "llama3", **LLAMA3}),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, 1e6, None),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}}, 5e5,
         {"rope_type": "llama3", **LLAMA3}),
        ({"rope_parameters": {"rope_type": "default"}, "rope_theta": 7e5}, 7e5, None),
        ({"rope_parameters": None, "rope_theta": 7e5}, 7e5, None),
        ({"rope_theta": 1.0, "rope_parameters": {"rope_theta": 2e4, "rope_type": "linear",
          "factor": 3.0}}, 2e4, {"rope_type": "linear", "factor": 3.0}),
    ],
)  # fmt: skip
def test_both_generations_of_rotary_settings_read_alike(
    written: dict[str, Any], theta: float, scaling: object
) -> None:
    before = json.dumps(written)
    config = with_one_rotary_form({"model_type": "llama", **written})
    assert config == {"model_type": "llama", "rope_theta": theta, "rope_scaling": scaling}
    assert json.dumps(written) == before


def test_settings_by_layer_type_keep_both() -> None:
    parameters = {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    config = with_one_rotary_form({"rope_parameters": parameters})
    assert config["rope_theta"] == 1e6
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert config["rope_parameters"] == parameters


def test_a_partly_rotated_head_is_lifted_out() -> None:
    config = with_one_rotary_form(
        {
            "rope_parameters": {
                "rope_theta": 1e4,
                "rope_type": "default",
                "partial_rotary_factor": 0.5,
            }
        }
    )
    assert config == {"rope_theta": 1e4, "rope_scaling": None, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize("scaling", [{"factor": 2.0}, {"rope_type": 3}])
def test_scaling_without_a_kind_is_refused(scaling: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="without saying how"):
        with_one_rotary_form({"rope_scaling": scaling})


def tokenizer_of(folder: Path) -> Any:
    with open_checkpoint(str(folder)) as checkpoint:
        return checkpoint.tokenizer


def test_special_tokens_as_text_or_object_or_in_the_map(make_folder: Any) -> None:
    added = {"__type": "AddedToken", "content": "</s>", "lstrip": False, "special": True}
    folder, _ = make_folder(
        tokenizer_config={"bos_token": None, "eos_token": added, "pad_token": added}
    )
    files = tokenizer_of(folder)
    assert (files.beginning_token, files.beginning_token_id) == (None, None)
    assert (files.end_token, files.end_token_ids, files.padding_token_id) == ("</s>", (257,), 257)
    folder, _ = make_folder(tokenizer_config={})
    (folder / "special_tokens_map.json").write_text('{"bos_token": {"content": "<s>"}}')
    assert tokenizer_of(folder).beginning_token_id == 256


def test_end_tokens_of_all_files_count(make_folder: Any) -> None:
    folder, _ = make_folder()
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 9], "pad_token_id": 7}')
    files = tokenizer_of(folder)
    assert files.end_token_ids == (5, 9, 257)
    assert files.padding_token_id == 7
    (folder / "generation_config.json").write_text("{}")
    rewrite(folder / "config.json", eos_token_id=11, pad_token_id=-1)
    files = tokenizer_of(folder)
    assert files.end_token_ids == (11, 257)
    assert files.padding_token_id is None


def test_special_tokens_named_only_by_id(make_folder: Any) -> None:
    folder, _ = make_folder(tokenizer_config={})
    rewrite(folder / "config.json", bos_token_id=256, eos_token_id=257)
    files = tokenizer_of(folder)
    assert (files.beginning_token, files.end_token) == ("<s>", "</s>")


def write_tokenizer_that_prepends(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 256)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("in_json", [True, False])
@pytest.mark.parametrize(
    ("settings", "said"),
    [({}, None), ({"add_bos_token": True}, True), ({"add_bos_token": False}, False),
     ({"add_eos_token": False}, False)],
)  # fmt: skip
def test_tokenizer_config_decides_whether_the_beginning_is_prepended(
    make_folder: Any, in_json: bool, settings: dict[str, Any], said: bool | None
) -> None:
    folder, _ = make_folder(tokenizer_config={"bos_token": "<s>", **settings})
    if in_json:
        write_tokenizer_that_prepends(folder)
    files = tokenizer_of(folder)
    expected = in_json if said is None else said
    assert files.add_beginning_token is expected
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert (tokenizer.encode("a").ids[0] == 256) is expected
    if expected == in_json:
        assert files.tokenizer_json == (folder / "tokenizer.json").read_text()


def test_damaged_settings_are_named(make_folder: Any) -> None:
    folder, _ = make_folder()
    for name, content, message in (
        ("config.json", '{"model_type": "llama", "eos_token_id": "x"}', "eos_token_id = 'x'"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json is no valid JSON"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json must hold a JSON object"),
        ("chat_template.jinja", "\xff", r"chat_template\.jinja can not be read"),
        ("tokenizer.json", "\xff", r"tokenizer\.json can not be read"),
    ):
        path = folder / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(str(folder))
        path.unlink() if before is None else path.write_bytes(before)


def test_chat_templates(make_folder: Any) -> None:
    def template(value: object) -> Any:
        folder, _ = make_folder(tokenizer_config={"chat_template": value})
        return tokenizer_of(folder).chat_template

    assert template(None) is None
    assert template("inline") == "inline"
    assert template([{"name": "rag", "template": "R"}]) == "R"
    several = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
    assert template(several) == "D"
    with pytest.raises(CheckpointError, match="named rag, tool_use, and none is named default"):
        template([{"name": "rag", "template": "R"}, {"name": "tool_use", "template": "T"}])
    with pytest.raises(CheckpointError, match="neither a string nor a list"):
        template(3)
    folder, _ = make_folder(tokenizer_config={"chat_template": "inline"})
    (folder / "chat_template.jinja").write_text("from the file\n")
    assert tokenizer_of(folder).chat_template == "from the file\n"


def test_tokenizers_that_are_refused(make_folder: Any) -> None:
    folder, _ = make_folder(tokenizer_config={"bos_token": "<missing>"})
    with pytest.raises(
        CheckpointError, match=r"bos_token '<missing>', which tokenizer\.json lacks"
    ):
        open_checkpoint(str(folder))
    folder, _ = make_folder(tokenizer_config={"bos_token": 3})
    with pytest.raises(CheckpointError, match="bos_token = 3"):
        open_checkpoint(str(folder))
    (folder / "tokenizer.json").write_text('{"model": {"type": "novel"}}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is no valid tokenizer"):
        open_checkpoint(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer file"):
        open_checkpoint(str(folder))
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.model").touch()
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is no SentencePiece model"):
        open_checkpoint(str(folder))
    (folder / "tokenizer.model").unlink()
    (folder / "vocab.json").touch()
    with pytest.raises(CheckpointError, match=r"only vocab\.json\. Make it with .*AutoTokenizer"):
        open_checkpoint(str(folder))

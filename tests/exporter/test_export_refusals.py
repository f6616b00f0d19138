"""What can not be exported is refused in one sentence, and nothing is written."""

import dataclasses
import re

import numpy as np
import pytest
from bundle_files import change_json
from safetensors.numpy import load_file, save_file
from tiny_checkpoint import load_case, write_checkpoint

from edgewise.common.errors import EdgewiseError
from edgewise.exporter import export
from edgewise.exporter.budget import BudgetError
from edgewise.exporter.plan import PlanError
from edgewise.exporter.quantize import QuantizeError, RecipeError
from edgewise.firmware_profiles import ProfileError, available_profiles, load_profile
from edgewise.runtime.tokenizer import TokenizerError

BOARD = "raspberry_pi_5"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"profile": "raspbery_pi_5"}, ProfileError, "raspberry_pi_5"),
        ({"profile": "raspberry_pi_5:3gb"}, ProfileError, "8gb"),
        ({"recipe": "int3"}, RecipeError, "int4"),
        ({"recipe": "int4,mpl=int8"}, RecipeError, "mlp"),
        ({"recipe": "fp32,activations=int8"}, RecipeError, "none of which is quantized"),
        ({"recipe": "fp16,activations=int8"}, RecipeError, "none of which is quantized"),
        ({"recipe": "int8,activations=float32"}, RecipeError, "int8-block32"),
        ({"recipe": "int4,activations=float16"}, RecipeError, "float32 and int8"),
        ({"runtime": "gguf"}, PlanError, "--format onnx"),
        ({"context_length": 129}, PlanError, "129.* 1 to 128"),
        ({"context_length": 0}, PlanError, "1 to 128"),
        ({"revision": "main"}, EdgewiseError, "revision"),
        ({"profile": "raspberry_pi_4", "runtime": "onnx", "recipe": "int4"}, PlanError, "dotprod"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    tiny_folder, tmp_path, arguments, error, words
):
    given = {"profile": BOARD, "output": tmp_path / "bundle", **arguments}
    with pytest.raises(error, match=words) as caught:
        export(str(tiny_folder("qwen2_tied")), **given)
    assert isinstance(caught.value, EdgewiseError)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
@pytest.mark.parametrize(
    "name", [name for name in available_profiles() if load_profile(name).runtime != "onnx"]
)
def test_a_board_that_runs_tflite_best_takes_both(tiny_folder, tmp_path, name, runtime):
    report = export(
        str(tiny_folder("qwen2_tied")),
        profile=name,
        output=tmp_path / "bundle",
        runtime=None if runtime == "tflite" else runtime,
        verification=False,
    )
    assert report.bundle.manifest.profile == name
    assert report.bundle.manifest.runtime == runtime


def test_an_unknown_architecture_is_refused_with_the_known_ones(checkpoint, tmp_path):
    change_json(checkpoint / "config.json", model_type="lama")
    with pytest.raises(EdgewiseError, match=r"'lama'.*llama, .*qwen2.*mean 'llama'"):
        export(str(checkpoint), profile=BOARD, output=tmp_path / "bundle")


def test_all_tensors_that_do_not_fit_are_named_at_once(checkpoint, tmp_path):
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["extra.weight"] = tensors.pop("model.norm.weight")
    tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((3, 3), np.float32)
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(EdgewiseError) as caught:
        export(str(checkpoint), profile=BOARD, output=tmp_path / "bundle")
    for name in ("model.norm.weight", "extra.weight", "layers.0.mlp.up_proj.weight is [3, 3]"):
        assert name in str(caught.value)


@pytest.mark.parametrize("head_size", [4, 20, 42])
def test_a_head_size_that_no_kernel_takes_is_refused_at_once(tmp_path, head_size):
    """onnxruntime 1.32 refuses it when it runs, which is after everything was written."""
    case = load_case("llama_tied_wide_head")
    case = dataclasses.replace(case, config={**case.config, "head_dim": head_size})
    folder = write_checkpoint(case, tmp_path / "checkpoint")
    with pytest.raises(PlanError, match=f"have {head_size} features.*multiple of 8"):
        export(str(folder), profile=BOARD, output=tmp_path / "bundle", recipe="fp32")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("recipe", "value"),
    [("fp32", np.nan), ("fp32", np.inf), ("fp16", np.nan), ("int8", -np.inf), ("int4", np.nan)],
)
@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.2.self_attn.v_proj.bias",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.2.input_layernorm.weight",
        "model.norm.weight",
    ],
)
def test_a_weight_that_is_no_number_is_refused_by_name(tmp_path, name, value, recipe):
    folder = write_checkpoint(load_case("qwen2_tied"), tmp_path / "checkpoint")
    tensors = load_file(folder / "model.safetensors")
    tensors[name].reshape(-1)[5] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(QuantizeError, match=f"{re.escape(name)} holds {value}"):
        export(
            str(folder),
            profile=BOARD,
            output=tmp_path / "bundle",
            recipe=recipe,
            verification=False,
        )
    assert not (tmp_path / "bundle").exists()


def test_what_is_not_about_weights_is_refused_before_they_are_read(
    checkpoint, tmp_path, monkeypatch
):
    """A large model takes minutes to write: a tokenizer that does not fit must be told first."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.add_tokens([f"<new{index}>" for index in range(10)])
    tokenizer.save(str(checkpoint / "tokenizer.json"))

    def read_weights(*arguments: object) -> None:
        pytest.fail("the weights were read")

    monkeypatch.setattr("edgewise.exporter.targets.onnx.build", read_weights)
    with pytest.raises(TokenizerError, match="310 ids, the model knows 300"):
        export(str(checkpoint), profile=BOARD, output=tmp_path / "bundle")
    change_json(checkpoint / "tokenizer_config.json", chat_template="{{ unclosed")
    with pytest.raises(EdgewiseError):
        export(str(checkpoint), profile=BOARD, output=tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-llama"]


def board_with_room_for(usable_bytes: int):
    """The board with ``usable_bytes`` beside the runtime, and a context that it may budget."""
    profile = load_profile(BOARD)
    overhead = profile.runtime_choice("onnx").overhead_bytes
    variant = dataclasses.replace(profile.memory.variants[0], usable_bytes=overhead + usable_bytes)
    memory = dataclasses.replace(
        profile.memory,
        variants=(variant,),
        variant=variant.name,
        default_variant=variant.name,
    )
    return dataclasses.replace(profile, memory=memory, max_context=16)


@pytest.fixture
def wide_model(tmp_path):
    """A checkpoint whose 5 MiB of weights outweigh its cache."""
    case = load_case("llama_tied_wide_head")
    config = {**case.config, "intermediate_size": 2048, "vocab_size": 300}
    return write_checkpoint(dataclasses.replace(case, config=config), tmp_path / "wide")


def test_a_model_that_does_not_fit_is_refused_with_a_recipe_that_does(wide_model, tmp_path):
    profile = board_with_room_for(1_500_000)
    with pytest.raises(BudgetError) as caught:
        export(str(wide_model), profile=profile, output=tmp_path / "bundle", recipe="fp32")
    message = str(caught.value)
    assert "wide does not fit raspberry_pi_5" in message
    assert caught.value.budget.total_bytes > caught.value.budget.usable_bytes
    assert not (tmp_path / "bundle").exists()
    named = re.search(r"[Rr]ecipe (\S+) fits with this context", message)
    assert named is not None, message
    report = export(
        str(wide_model),
        profile=profile,
        output=tmp_path / "bundle",
        recipe=named[1],
        verification=False,
    )
    weights = report.bundle.file("weights").stat().st_size
    assert weights <= caught.value.budget.usable_bytes


def test_force_exports_what_does_not_fit(wide_model, tmp_path):
    profile = board_with_room_for(1_500_000)
    report = export(
        str(wide_model), profile=profile, output=tmp_path / "bundle", recipe="fp32", force=True
    )
    assert report.verification is not None
    assert report.verification.passed

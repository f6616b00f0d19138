"""A forecast from a configuration alone is the plan and the budget of the export itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import load_case, write_checkpoint
from tiny_families import TinyEncoder, TinyEncoderDecoder, TinyFamilyModel
from tiny_family_folders import write_family_folder

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.budget import check_fit
from edgewise.exporter.checkpoint import CheckpointError, open_checkpoint
from edgewise.exporter.forecast import forecast, read_configuration
from edgewise.exporter.planning import make_plan
from edgewise.firmware_profiles import load_profile

CONFIGS = Path(__file__).parents[1] / "data" / "configs"


def config_of(name: str) -> dict[str, Any]:
    return read_configuration(CONFIGS / f"{name}.json")


@pytest.mark.parametrize("case", ["llama_tied_wide_head", "qwen2_untied"])
@pytest.mark.parametrize(
    ("profile", "settings"),
    [
        ("raspberry_pi_5", {}),
        ("raspberry_pi_4", {"context_length": 20}),
        ("x86_64", {"recipe": "int4,head=int8", "runtime": "onnx"}),
    ],
)
def test_it_is_what_an_export_settles(
    case: str, profile: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_checkpoint(load_case(case), tmp_path / "tiny")
    board = load_profile(profile)
    with open_checkpoint(str(folder)) as checkpoint:
        plan = make_plan(checkpoint, board, **settings)
    found = forecast(read_configuration(folder), board, name="tiny", **settings)
    assert found.plan == plan
    assert found.budget == check_fit(plan)
    assert sum(found.role_bytes.values()) == found.budget.weights_bytes
    assert found.advice == ()
    assert found.spare_bytes == found.budget.usable_bytes - found.budget.total_bytes > 0


@pytest.mark.parametrize(
    "model", [TinyEncoder("roberta_features"), TinyEncoderDecoder("t5_v1_1")], ids=lambda m: m.name
)
def test_other_families_too(model: TinyFamilyModel, tmp_path: Path) -> None:
    folder = write_family_folder(model, tmp_path / "tiny")
    board = load_profile("raspberry_pi_5")
    with open_checkpoint(str(folder)) as checkpoint:
        plan = make_plan(checkpoint, board)
    found = forecast(read_configuration(folder), board, name="tiny")
    assert found.plan == plan
    assert found.budget == check_fit(plan)
    assert found.budget.working_bytes > 0


def test_phi_2_by_hand() -> None:
    """int8 by the row on a TFLite board, every byte added up by hand."""
    board = load_profile("raspberry_pi_4")
    found = forecast(config_of("phi-2"), board, context_length=512)
    d, ff, layers, vocabulary = 2560, 10240, 32, 51200
    rows = layers * (4 * d + ff + d) + 2 * vocabulary
    matrices = layers * (4 * d * d + 2 * d * ff) + 2 * vocabulary * d
    vectors = layers * (3 * d + d + ff + d + 2 * d) + 2 * d + vocabulary
    assert found.plan.parameters == matrices + vectors == 2_779_683_840
    assert found.budget.weights_bytes == matrices + 4 * rows + 4 * vectors
    assert found.budget.cache_bytes == 512 * 2 * layers * d * 4
    assert str(found.plan.recipe) == "int8"


def test_what_does_not_fit_says_what_would() -> None:
    board = load_profile("raspberry_pi_5:4gb")
    found = forecast(config_of("orca-2-7b"), board)
    assert not found.budget.fits
    assert found.spare_bytes < 0
    assert found.advice
    fitting = load_profile("raspberry_pi_5:8gb")
    assert forecast(config_of("orca-2-7b"), fitting).budget.fits
    assert any(f"profile {fitting.qualified_name} has room" in advice for advice in found.advice)


def test_what_is_refused() -> None:
    board = load_profile("raspberry_pi_5")
    config = config_of("phi-2")
    for settings, message in (
        ({"context_length": 4096}, "made for 1 to 2048"),
        ({"recipe": "int3"}, "int3"),
        ({"cache_dtype": "int3"}, "cache_dtype 'int3' is unknown"),
        ({"runtime": "gguf"}, "'gguf' was asked for"),
    ):
        with pytest.raises(EdgewiseError, match=message):
            forecast(config, board, **settings)
    with pytest.raises(EdgewiseError, match="no definition exists for model_type 'novel'"):
        forecast({"model_type": "novel"}, board)


def test_configurations_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="can not be read"):
        read_configuration(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="names no model_type"):
        read_configuration(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "rope_theta": 5}))
    assert read_configuration(tmp_path)["rope_theta"] == 5.0

"""``edgewise plan``: whether a model fits, from its configuration alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[1] / "data" / "configs"


def test_a_model_that_fits(edgewise):
    config = CONFIGS / "tinyllama-1.1b.json"
    result = edgewise("plan", "--config", config, "--profile", "raspberry_pi_5:4gb")
    assert result.code == 0
    assert result.err == ""
    rows = {line[:15].strip(): line[15:] for line in result.out.splitlines()}
    assert rows["model"] == "tinyllama-1.1b, llama, 1,100,048,384 (1.1 G)"
    assert rows["cache"] == "44.0 MiB for 2048 tokens of 22.0 KiB in float16"
    assert rows["fits"].startswith("yes, ")
    assert "instead" not in rows
    arguments = ("--profile", "raspberry_pi_5", "--cache", "int8", "--json")
    value = json.loads(edgewise("plan", "--config", config, *arguments).out)
    assert (value["cache_dtype"], value["cache_bytes_per_token"]) == ("int8", 11 << 10)


def test_a_model_that_does_not(edgewise):
    config = CONFIGS / "orca-2-7b.json"
    result = edgewise("plan", "--config", config, "--profile", "raspberry_pi_5:4gb")
    assert result.code == 0
    assert "fits           no, " in result.out
    assert "\ninstead        " in result.out


def test_as_json(edgewise, tmp_path):
    folder = tmp_path / "phi-2"
    folder.mkdir()
    shutil.copy(CONFIGS / "phi-2.json", folder / "config.json")
    for given in (folder, folder / "config.json"):
        arguments = ("--profile", "raspberry_pi_4", "--context", 1024, "--recipe", "int8", "--json")
        value = json.loads(edgewise("plan", "--config", given, *arguments).out)
        assert (value["model_id"], value["parameters"]) == ("phi-2", 2_779_683_840)
        assert (value["runtime"], value["recipe"]) == ("tflite", "int8")
        assert value["cache_bytes"] == 1024 * value["cache_bytes_per_token"]
        total = value["weights_bytes"] + value["cache_bytes"] + value["overhead_bytes"]
        assert (value["family"], value["working_bytes"]) == ("decoder", 0)
        assert value["total_bytes"] == total
        assert value["spare_bytes"] == value["usable_bytes"] - total
        assert value["fits"] is (value["spare_bytes"] >= 0) is (value["advice"] == [])


@pytest.mark.parametrize(
    ("name", "rows", "missing"),
    [
        ("flan-t5-base", {"cache": "for 512 tokens", "work": "on a text of 512 tokens"}, ()),
        ("roberta-large", {"work": "on a text of 512 tokens"}, ("cache",)),
        ("phi-2", {"cache": "for 2048 tokens"}, ("work",)),
    ],
)
def test_every_family_says_what_it_works_with(edgewise, name, rows, missing):
    config = CONFIGS / f"{name}.json"
    text = edgewise("plan", "--config", config, "--profile", "jetson_agx_orin").out
    shown = {line[:15].strip(): line for line in text.splitlines()}
    for row, expected in rows.items():
        assert expected in shown[row]
    assert not set(missing) & set(shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "none.json", "--profile", "x86_64"], "none.json can not be read"),
        (["--profile", "x86_64"], "Missing option '--config'"),
        (["--config", CONFIGS / "phi-2.json"], "Missing option '--profile'"),
        (["--config", CONFIGS / "phi-2.json", "--profile", "x86"], "did you mean 'x86_64'"),
    ],
)
def test_mistakes(edgewise, arguments, message):
    assert message in edgewise("plan", *arguments).mistake()

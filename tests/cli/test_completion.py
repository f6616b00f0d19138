"""Completion: the scripts, and what they are answered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from edgewise.firmware_profiles import available_profiles

SHELLS = ["bash", "zsh", "fish"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed(edgewise, shell):
    result = edgewise("completion", shell)
    assert (result.code, result.err) == (0, "")
    assert f"_EDGEWISE_COMPLETE={shell}_complete" in result.out
    assert "edgewise" in result.out


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_itself_takes_the_script(edgewise, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = edgewise("completion", shell).out
    subprocess.run([shell, "-n"], input=script, text=True, check=True, capture_output=True)


def completed(*words):
    """Ask as bash does: the words so far, of which the last is incomplete."""
    environment = {
        **os.environ,
        "_EDGEWISE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["edgewise", *words]),
        "COMP_CWORD": str(len(words)),
    }
    result = subprocess.run(
        [sys.executable, "-m", "edgewise.cli"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr == ""
    return [line.partition(",")[2] for line in result.stdout.splitlines() if line]


def test_commands_and_options_complete():
    assert completed("in") == ["inspect"]
    assert completed("pro") == ["profiles"]
    assert "--recipe" in completed("export", "--re")
    assert completed("completion", "") == SHELLS


def test_profiles_complete():
    assert completed("export", "x", "--profile", "") == list(available_profiles())
    assert completed("export", "x", "--profile", "jetson_o") == ["jetson_orin_nano"]
    assert completed("profiles", "raspberry_pi_5") == ["raspberry_pi_5"]
    assert completed("profiles", "raspberry_pi_5:1") == ["raspberry_pi_5:16gb"]
    assert completed("demo", "--profile", "x") == ["x86_64"]
    assert completed("profiles", "nothing:") == []


def test_prompts_complete():
    assert completed("export", "x", "--prompt", "phi-") == [
        "phi-1-docstring",
        "phi-2-instruct",
        "phi-answer",
    ]


def test_recipes_complete():
    names = completed("export", "x", "--recipe", "")
    assert names[:5] == ["fp32", "fp16", "int8", "int4", "keep"]
    assert "int4-block64-asymmetric" in names
    assert completed("export", "x", "--recipe", "fp") == ["fp32", "fp16"]
    assert completed("export", "x", "--recipe", "int4,m") == ["int4,mlp="]
    roles = ["embedding", "attention", "mlp", "head", "activations"]
    assert completed("export", "x", "--recipe", "int4,") == [f"int4,{role}=" for role in roles]
    assert completed("export", "x", "--recipe", "int4,head=fp32,mlp=int8-block3") == [
        "int4,head=fp32,mlp=int8-block32",
        "int4,head=fp32,mlp=int8-block32-asymmetric",
    ]
    assert completed("export", "x", "--recipe", "int4,activations=") == [
        "int4,activations=float32",
        "int4,activations=int8",
    ]


def test_every_recipe_that_is_offered_is_one():
    from edgewise.exporter.quantize.recipes import Recipe

    for text in completed("export", "x", "--recipe", ""):
        assert str(Recipe.parse(text))


def test_bundles_complete_as_folders_and_checkpoints_as_files():
    environment = {
        **os.environ,
        "_EDGEWISE_COMPLETE": "bash_complete",
        "COMP_WORDS": "edgewise run sm",
        "COMP_CWORD": "2",
    }
    command = [sys.executable, "-m", "edgewise.cli"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "dir,sm\n"
    environment["COMP_WORDS"] = "edgewise export sm"
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "file,sm\n"

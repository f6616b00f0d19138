"""``edgewise demo``: reuse, the agent's process, and once with the real model."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from edgewise.cli import demonstration
from edgewise.cli.demonstration import is_usable
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.firmware_profiles import load_profile
from edgewise.runtime.backends.fake_bundle import write_fake_bundle
from edgewise.runtime.bundle import open_bundle, write_manifest

REPLY = "The capital of France is Paris 🙂."
DEMONSTRATION = {
    "bundle": str,
    "reused": bool,
    "model_id": str,
    "profile": str,
    "recipe": str,
    "broker": str,
    "prompt": str,
    "text": str,
    "finish_reason": str,
    "first_text_seconds": float,
    "usage": {
        "prompt_tokens": int,
        "generated_tokens": int,
        "queue_ms": float,
        "time_to_first_token_ms": float,
        "total_ms": float,
        "tokens_per_second": float,
        "peak_rss_bytes": int,
        "reused_tokens": int,
    },
}


def write_exported(folder, **settings):
    """Write a fake bundle that looks like an export of the checkpoint "fake" for x86_64."""
    write_fake_bundle(folder, **settings)
    recipe = str(Recipe.parse(str(load_profile("x86_64").recipe_for("onnx"))))
    write_manifest(folder, dataclasses.replace(open_bundle(folder).manifest, recipe=recipe))
    return folder


@pytest.fixture
def fake_export(monkeypatch):
    """Put a fake bundle where the exporter would write a real one; returns its calls."""
    calls = []

    def export(checkpoint, *, profile, output, runtime, progress):
        calls.append((checkpoint, profile.qualified_name, runtime))
        progress("export", 1, 1)
        write_exported(Path(output))

    monkeypatch.setattr("edgewise.exporter.pipeline.export", export)
    return calls


def demo(edgewise, work, *options):
    return edgewise("demo", "--checkpoint", "fake", "--profile", "x86_64", "--work", work, *options)


def test_the_bundle_is_made_once_and_used_again(edgewise, tmp_path, fake_export):
    first = demo(edgewise, tmp_path)
    assert first.code == 0
    answer, figures = first.out.splitlines()
    assert answer == REPLY
    assert re.fullmatch(
        r"\[first token after [\d.]+ m?s at the sensor \([\d.]+ m?s on the device\) \| "
        r"[\d.]+ tokens/s \| peak memory of the agent \d+ MiB\]",
        figures,
    )
    assert fake_export == [("fake", "x86_64", "onnx")]
    assert "(new)" in first.err
    second = demo(edgewise, tmp_path)
    assert second.out.splitlines()[0] == REPLY
    assert "reused" in second.err
    assert len(fake_export) == 1


def test_json_has_its_form(edgewise, tmp_path, fake_export, check_shape):
    value = json.loads(demo(edgewise, tmp_path, "--json", "--prompt", "And now?").out)
    check_shape(value, DEMONSTRATION)
    assert (value["text"], value["prompt"], value["reused"]) == (REPLY, "And now?", False)
    assert value["usage"]["prompt_tokens"] == len("And now?") + 3
    assert value["usage"]["peak_rss_bytes"] > 1 << 20
    assert len(fake_export) == 1


def test_the_cache_folder_is_where_it_works_by_default(
    edgewise, tmp_path, fake_export, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = edgewise("demo", "--checkpoint", "fake", "--profile", "x86_64", "--json")
    assert json.loads(result.out)["bundle"] == str(tmp_path / "cache" / "edgewise" / "fake-x86-64")
    assert len(fake_export) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    from edgewise.cli.folders import cache_folder

    assert cache_folder() == tmp_path / "home" / ".cache" / "edgewise"


def test_a_damaged_bundle_is_made_anew(edgewise, tmp_path, fake_export):
    demo(edgewise, tmp_path)
    graph = next(tmp_path.glob("*/graph.json"))
    graph.write_bytes(graph.read_bytes()[:-1] + b" ")
    result = demo(edgewise, tmp_path)
    assert result.code == 0
    assert "made anew" in result.err
    assert len(fake_export) == 2


def test_only_what_would_be_made_is_used_again(tmp_path):
    folder = write_exported(tmp_path / "b")
    assert is_usable(folder, "fake", "x86_64")
    assert is_usable(folder, "/some/where/fake", "x86_64")
    assert not is_usable(folder, "other", "x86_64")
    assert not is_usable(folder, "fake", "x86_64:16gb")
    assert not is_usable(folder, "fake", "raspberry_pi_5")
    assert not is_usable(tmp_path / "none", "fake", "x86_64")
    manifest = open_bundle(folder).manifest
    write_manifest(folder, dataclasses.replace(manifest, recipe="fp32"))
    assert not is_usable(folder, "fake", "x86_64")


def test_what_the_agent_says_against_its_bundle_is_passed_on(edgewise, tmp_path, fake_export):
    demo(edgewise, tmp_path)
    manifest = next(tmp_path.glob("*/manifest.json"))
    value = json.loads(manifest.read_text())
    value["probes"][0]["ids"][0] += 1  # no file's hash changes by that
    manifest.write_text(json.dumps(value))
    result = demo(edgewise, tmp_path)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("Error: the tokenizer encodes")
    assert len(fake_export) == 1


def test_an_agent_that_does_not_come_is_given_up(edgewise, tmp_path, fake_export, monkeypatch):
    monkeypatch.setattr(demonstration, "START_SECONDS", 0.0)
    result = demo(edgewise, tmp_path)
    assert result.code == 2
    assert "not started within" in result.err
    assert fake_export


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--profile", "rasberry_pi_5"], "did you mean 'raspberry_pi_5'?"),
        (["--checkpoint", "package:no-such-package-here"], "no-such-package-here"),
        (["--checkpoint", "/no/such/folder"], "does not exist"),
    ],
)
def test_mistakes(edgewise, tmp_path, options, expected):
    assert expected in edgewise("demo", "--work", tmp_path, *options).mistake()


def test_a_missing_extra_is_named_with_its_command(edgewise, monkeypatch):
    monkeypatch.setattr("edgewise.cli.extras.missing_modules", lambda _modules: ("amqtt",))
    assert "pip install 'edgewise[demo]'" in edgewise("demo").mistake()


def test_ctrl_c_takes_the_agent_along(spawn, tmp_path):
    write_exported(tmp_path / "fake-x86-64", reply="word " * 40, step_seconds=0.1)
    process = spawn(
        "demo", "--checkpoint", "fake", "--profile", "x86_64", "--work", tmp_path
    )  # fmt: skip
    assert os.read(process.stdout.fileno(), 1) == b"w"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    agent = int(re.search(rb"agent: demo \(process (\d+)\)", error)[1])
    give_up = time.monotonic() + 20
    while Path(f"/proc/{agent}").exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not Path(f"/proc/{agent}").exists()


@pytest.mark.real
def test_the_real_model_knows_the_capital_of_france(spawn, tmp_path, check_shape):
    process = spawn("demo", "--work", tmp_path, "--json")
    out, error = process.communicate(timeout=230)
    assert process.returncode == 0, error.decode()
    value = json.loads(out)
    check_shape(value, DEMONSTRATION)
    assert "Paris" in value["text"]
    assert value["reused"] is False
    assert value["usage"]["peak_rss_bytes"] < 1 << 30
    again, error = spawn("demo", "--work", tmp_path).communicate(timeout=120)
    assert "Paris" in again.decode()
    assert b"reused" in error

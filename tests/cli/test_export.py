"""``edgewise export`` on tiny real checkpoints, and what the other commands make of the result."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from tiny_checkpoint import load_case, write_checkpoint

from edgewise import firmware_profiles
from edgewise.runtime import open_bundle

VERIFICATION = {
    "positions": int,
    "top1_agreement": float,
    "mean_divergence": float,
    "largest_difference": float,
    "largest_logit": float,
    "gate": {
        "top1_agreement": float,
        "mean_divergence": float,
        "largest_difference": (float, type(None)),
        "smallest_cosine": float,
    },
    "passed": bool,
    "smallest_cosine": (float, type(None)),
}
FORMATS = {"embedding": str, "attention": str, "mlp": str, "head": str}
REPORT = {
    "bundle": str,
    "model_id": str,
    "architecture": str,
    "parameters": int,
    "profile": str,
    "runtime": str,
    "recipe": str,
    "formats": FORMATS,
    "calibration": type(None),
    "context_length": int,
    "cache_dtype": str,
    "bytes": int,
    "memory": {
        "weights_bytes": int,
        "cache_bytes_per_token": int,
        "context": int,
        "overhead_bytes": int,
        "usable_bytes": int,
        "working_bytes": int,
        "working_tokens": int,
        "total_bytes": int,
        "fits": bool,
    },
    "verification": VERIFICATION,
    "seconds": float,
    "cpu_seconds": float,
    "peak_rss_bytes": int,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(load_case("qwen2_tied"), tmp_path_factory.mktemp("tiny") / "tiny-qwen2")


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """Export through the command line as a process of its own; return the folder and its JSON."""
    from edgewise.cli.main import main

    folder = tmp_path_factory.mktemp("exported") / "bundle"
    arguments = ["export", checkpoint, "--profile", "x86_64", "--recipe", "fp32", "-o", folder]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def test_a_bundle_is_made_and_its_figures_told(edgewise, checkpoint, tmp_path):
    folder = tmp_path / "bundle"
    result = edgewise("export", checkpoint, "--profile", "x86_64", "--recipe", "fp32", "-o", folder)
    assert result.code == 0
    lines = dict(line.split(maxsplit=1) for line in result.out.splitlines())
    assert lines["bundle"] == str(folder)
    assert lines["recipe"] == "fp32"
    assert lines["verified"].startswith("top-1 agreement 100.0%")
    assert {"size", "model", "profile", "context", "CPU", "peak"} <= set(lines)
    stages = [line.split()[0] for line in result.err.splitlines()]
    assert stages == ["export", "verify", "publish"]
    assert all("100%" in line for line in result.err.splitlines())
    assert open_bundle(folder, verify_hashes=True).manifest.recipe == "fp32"


def test_json_has_its_form(edgewise, checkpoint, tmp_path, check_shape):
    result = edgewise(
        "export", checkpoint, "--profile", "x86_64:4gb", "--recipe", "fp32", "--context", "64",
        "-o", tmp_path / "b", "--format", "onnx", "--json",
    )  # fmt: skip
    value = json.loads(result.out)
    check_shape(value, REPORT)
    manifest = open_bundle(value["bundle"]).manifest
    assert value["profile"] == manifest.profile == "x86_64:4gb"
    assert value["context_length"] == manifest.context_length == 64
    assert value["bytes"] == sum(file.bytes for file in manifest.files)
    assert value["verification"]["passed"] is True


def test_without_verification_it_says_so(edgewise, checkpoint, tmp_path):
    arguments = ("export", checkpoint, "--profile", "x86_64", "--recipe", "fp32", "--no-verify")
    value = json.loads(edgewise(*arguments, "-o", tmp_path / "a", "--json").out)
    assert value["verification"] is None
    text = edgewise(*arguments, "-o", tmp_path / "b")
    assert "verified  no\n" in text.out
    assert "verify" not in text.err


def test_what_misses_the_gate_is_published_by_force_only(edgewise, checkpoint, tmp_path):
    folder = tmp_path / "bundle"
    arguments = ("export", checkpoint, "--profile", "x86_64", "--recipe", "int4", "-o", folder)
    result = edgewise(*arguments)
    message = [line for line in result.err.splitlines() if line.startswith("Error: ")]
    assert result.code == 2
    assert result.out == ""
    assert len(message) == 1
    assert "--force" in message[0]
    assert "top-1 agreement" in message[0]
    assert list(tmp_path.iterdir()) == []
    forced = edgewise(*arguments, "--force")
    assert forced.code == 0
    assert "NOT PASSED" in forced.out
    assert "NOT PASSED" in edgewise("inspect", folder).out


def test_what_does_not_fit_is_published_by_force_only_and_says_so(edgewise, checkpoint, tmp_path):
    source = Path(firmware_profiles.__file__).with_name("raspberry_pi_zero_2w.toml").read_text()
    usable = (128 << 20) + (192 << 10)  # the runtime, and a cache for few tokens
    for old, new in (
        ("raspberry_pi_zero_2w", "small_board"),
        ("335_544_320", f"{usable}"),
        ("max_context = 512", "max_context = 8"),
    ):
        source = source.replace(old, new)
    board = tmp_path / "small_board.toml"
    board.write_text(source)
    arguments = ("export", checkpoint, "--profile", board, "--recipe", "fp32", "--no-verify")
    arguments = (*arguments, "-o", tmp_path / "bundle")
    assert "does not fit small_board: weights" in edgewise(*arguments).mistake()
    forced = edgewise(*arguments, "--force")
    assert forced.code == 0
    (line,) = (line for line in forced.out.splitlines() if line.startswith("memory"))
    assert re.fullmatch(r"memory +DOES NOT FIT: 128\.\d MiB .* of 128\.2 MiB usable", line)
    memory = json.loads(edgewise(*arguments, "--force", "--json").out)["memory"]
    assert memory["fits"] is False
    assert memory["usable_bytes"] == usable < memory["total_bytes"]


def test_what_stands_where_the_bundle_should_go_stays(edgewise, checkpoint, tmp_path):
    arguments = ("export", checkpoint, "--profile", "x86_64", "--recipe", "fp32", "-o")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    assert "holds files" in edgewise(*arguments, tmp_path / "notes").mistake()
    assert (tmp_path / "notes" / "diary.txt").read_text() == "dear diary"
    file = tmp_path / "file"
    file.write_text("x")
    assert "is a file" in edgewise(*arguments, file).mistake()
    assert edgewise(*arguments, file / "below").code == 2
    assert file.read_text() == "x"


def test_a_folder_that_may_not_be_written_is_one_sentence(edgewise, checkpoint):
    result = edgewise("export", checkpoint, "--profile", "x86_64", "-o", "/proc/edgewise/bundle")
    assert result.code == 2
    message = result.err.splitlines()[-1]
    assert message.startswith("Error: ")
    assert "/proc/edgewise" in message
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--profile", "raspbery_pi_5"], ["'raspbery_pi_5'", "did you mean 'raspberry_pi_5'?"]),
        (["--profile", "raspberry_pi_5:3gb"], ["'3gb'", "2gb, 4gb, 8gb, 16gb"]),
        (["--profile", "none.toml"], ["'none.toml' can not be read"]),
        ([], ["--profile", "edgewise profiles", "edgewise doctor"]),
        (["--profile", "x86_64", "--recipe", "int5"], ['"int5"', "Did you mean"]),
        (["--profile", "x86_64", "--recipe", "int4,mpl=int8"], ["mlp"]),
        (["--profile", "x86_64", "--recipe", ""], ["recipe"]),
        (["--profile", "x86_64", "--format", "gguf"], ["'gguf'", "--format onnx"]),
        (["--profile", "raspberry_pi_4", "--recipe", "int8-block32"], ["XNNPACK refuses"]),
        (["--profile", "x86_64", "--context", "0"], ["0 tokens"]),
        (["--profile", "x86_64", "--context", "99999999"], ["99999999 tokens"]),
        (["--profile", "x86_64", "--revision", "main"], ["no revisions"]),
    ],
)
def test_what_can_not_be_asked_for(edgewise, checkpoint, tmp_path, options, expected):
    message = edgewise("export", checkpoint, "-o", tmp_path / "bundle", *options).mistake()
    for part in expected:
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_checkpoint(edgewise, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.bin").write_bytes(b"pickle")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    for location in (
        "",
        tmp_path / "none",
        tmp_path / "empty",
        tmp_path / "model.bin",
        tmp_path / "cut.gguf",
        "package:no-such-package-here",
        "package:",
    ):
        edgewise("export", location, "--profile", "x86_64", "-o", tmp_path / "b").mistake()
    assert not (tmp_path / "b").exists()


def test_a_missing_extra_is_named_with_its_command(edgewise, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("edgewise.cli.extras.missing_modules", lambda _modules: ("onnx", "gguf"))
    message = edgewise("export", checkpoint, "--profile", "x86_64", "-o", tmp_path / "b").mistake()
    assert "onnx, gguf" in message
    assert "pip install 'edgewise[export]'" in message


def test_a_full_disk_is_no_fault_of_ours(edgewise, checkpoint, tmp_path, monkeypatch):
    def full(*_arguments, **_settings):
        raise OSError(28, "No space left on device", str(tmp_path / "model.onnx.data"))

    monkeypatch.setattr("edgewise.exporter.pipeline.export", full)
    message = edgewise("export", checkpoint, "--profile", "x86_64", "-o", tmp_path / "b").mistake()
    assert message.startswith(f"{tmp_path}/model.onnx.data: No space left on device")


def test_too_little_memory_is_no_fault_of_ours(edgewise, checkpoint, tmp_path, monkeypatch):
    def starved(*_arguments, **_settings):
        raise MemoryError

    monkeypatch.setattr("edgewise.exporter.pipeline.export", starved)
    message = edgewise("export", checkpoint, "--profile", "x86_64", "-o", tmp_path / "b").mistake()
    assert "not enough memory" in message


# The same bundle through the other commands.


def test_inspect_shows_the_export(edgewise, exported):
    result = edgewise("inspect", exported, "--verify-hashes")
    assert result.code == 0
    assert "sizes and hashes agree" in result.out
    manifest = open_bundle(exported).manifest
    for part in ("tiny-qwen2", "qwen2", "fp32", "model.onnx.data", "top-1 agreement 100.0%"):
        assert part in result.out
    for file in manifest.files:
        assert file.sha256[:16] in result.out
    cache = manifest.cache
    per_token = 2 * 4 * cache.layers * cache.key_value_heads * cache.head_size
    assert f"a token  {per_token} B" in result.out


def test_run_answers_with_the_export(edgewise, exported):
    arguments = ("run", exported, "Hi", "--max-tokens", "8", "--json")
    first, second = edgewise(*arguments), edgewise(*arguments, "--threads", "1")
    assert first.code == 0
    assert json.loads(first.out)["token_ids"] == json.loads(second.out)["token_ids"]


def test_bench_measures_the_export(edgewise, exported):
    arguments = ("--prompt-tokens", "16", "--new-tokens", "4", "--history", "8", "--rounds", "2")
    result = edgewise("bench", exported, *arguments, "--json")
    assert result.code == 0, result.err
    value = json.loads(result.out)
    assert value["runtime"] == "onnx"
    assert [depth["history"] for depth in value["depths"]] == [0, 8]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_no_temporary_folder(spawn, checkpoint, tmp_path, number):
    process = spawn(
        "export", checkpoint, "--profile", "x86_64", "--recipe", "fp32", "-o", tmp_path / "b"
    )
    process.stderr.readline()  # "export ... 100%": the temporary folder is there
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode in {128 + number, 0}  # 0: it was faster
    assert b"Traceback" not in error
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_text_to_calibrate_on_is_told_of(edgewise, checkpoint, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Hello, who are you? " * 400)
    arguments = ["--profile", "x86_64", "--recipe", "int4", "--force", "--calibrate", text]
    result = edgewise("export", checkpoint, *arguments, "-o", tmp_path / "bundle")
    assert result.code == 0
    assert " matrices rounded with error feedback on " in result.out
    stages = [line.split()[0] for line in result.err.splitlines()]
    assert stages == ["calibrate", "export", "verify", "publish"]
    inspected = edgewise("inspect", tmp_path / "bundle")
    assert " matrices rounded with error feedback on " in inspected.out


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "can not be read: No such file or directory; give a file of plain text"),
        (b"Too short.", "at least 512 are needed, and up to 4096 are used: give a longer text"),
        (b"\xff\xfe", "is no UTF-8 text (byte 0); give a file of plain text"),
    ],
)
def test_a_text_that_is_none_is_a_mistake(edgewise, checkpoint, tmp_path, content, sentence):
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    arguments = ["--profile", "x86_64", "--recipe", "int4", "--calibrate", text]
    result = edgewise("export", checkpoint, *arguments, "-o", tmp_path / "bundle")
    assert sentence in result.mistake()
    assert not (tmp_path / "bundle").exists()


def test_a_budget_raises_matrices_and_is_told_of(edgewise, checkpoint, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Hello, who are you? " * 400)
    arguments = ["--profile", "x86_64", "--recipe", "int4", "--force", "--calibrate", text]
    output = ["-o", tmp_path / "bundle", "--format", "onnx"]
    result = edgewise("export", checkpoint, *arguments, "--budget", "1MB", *output)
    assert result.code == 0
    assert " in formats of their own" in result.out
    stages = [line.split()[0] for line in result.err.splitlines()]
    assert stages == ["calibrate", "measure", "calibrate", "export", "verify", "publish"]
    small = edgewise("export", checkpoint, *arguments, "--budget", "1kB", *output)
    assert "the budget is 1000 bytes, but with recipe 'int4'" in small.mistake()
    alone = edgewise("export", checkpoint, "--profile", "x86_64", "--budget", "1.5KiB", *output)
    assert "a budget of 1536 bytes was given without a text" in alone.mistake()
    unknown = edgewise("export", checkpoint, "--profile", "x86_64", "--budget", "1mb", *output)
    assert unknown.code == 2
    assert "'1mb' is no size; give one such as 100MB or 96MiB" in unknown.err

"""Installing peers: what is run, in which order, and what the user is told."""

import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
import set_up as module
from engine_process import ENGINES
from set_up import LLAMA_CPP_SOURCE, PACKAGES, set_up


@pytest.fixture
def commands(monkeypatch):
    """Record commands; a download leaves an archive, as pip does."""
    run = []

    def record(command, *, check):
        assert not check
        run.append(command)
        if "download" in command:
            folder = Path(command[command.index("--dest") + 1])
            folder.mkdir(parents=True)
            with tarfile.open(folder / "llama_cpp_python-9.tar.gz", "w:gz") as archive:
                entry = tarfile.TarInfo("llama_cpp_python-9/vendor/llama.cpp/CMakeLists.txt")
                archive.addfile(entry, io.BytesIO())
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(module.subprocess, "run", record)
    return run


def test_every_peer_has_an_engine_and_lower_bounds():
    for kind, packages in PACKAGES.items():
        assert (ENGINES / f"{kind}_engine.py").exists()
        assert all(re.fullmatch(r"[a-z-]+>=[\d.]+", package) for package in packages)


def test_an_environment_is_made_once_and_filled(commands, tmp_path):
    told = set_up("openvino", tmp_path)
    python = tmp_path / "bin" / "python"
    assert told == f"--engine openvino=openvino:MODEL@{python}"
    assert [command[1:3] for command in commands] == [["-m", "venv"], ["-m", "pip"]]
    assert commands[1][0] == str(python)
    assert commands[1][-len(PACKAGES["openvino"]) :] == list(PACKAGES["openvino"])
    python.parent.mkdir()
    python.touch()
    set_up("openvino", tmp_path)
    assert [command[1:3] for command in commands[2:]] == [["-m", "pip"]]


def test_llama_cpp_is_built_from_the_source_archive(commands, tmp_path):
    told = set_up("llama_cpp", tmp_path)
    assert told.startswith(f"--llama-cpp {tmp_path / 'build' / 'bin'} ")
    download, configure, build = commands[-3:]
    assert download[-1] == LLAMA_CPP_SOURCE
    source = configure[configure.index("-S") + 1]
    assert (Path(source) / "CMakeLists.txt").exists()
    assert {"llama-bench", "llama-server", "llama-quantize"} <= set(build)
    set_up("llama_cpp", tmp_path)
    assert sum("download" in command for command in commands) == 1


def test_a_command_that_fails_ends_it(monkeypatch, tmp_path):
    monkeypatch.setattr(
        module.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 3)
    )
    with pytest.raises(SystemExit, match="exit code 3"):
        set_up("genai", tmp_path)

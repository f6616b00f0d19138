"""``edgewise doctor``: this machine, and machines that lack things."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import pytest

from edgewise.cli import doctor
from edgewise.cli.extras import EXTRAS
from edgewise.firmware_profiles import detect_machine, fitting_profile

FOUND = {
    "installed": bool,
    "version": (str, type(None)),
    "works": bool,
    "problem": (str, type(None)),
    "note": (str, type(None)),
}
EXTRA = {"installed": bool, "missing": [str], "command": str}


def test_json_has_its_form_and_tells_the_truth(edgewise, check_shape):
    result = edgewise("doctor", "--json")
    assert (result.code, result.err) == (0, "")
    value = json.loads(result.out)
    machine = detect_machine()
    assert set(value["machine"]) == set(machine.as_dict())
    check_shape(
        {key: inner for key, inner in value.items() if key != "machine"},
        {
            "edgewise": str,
            "python": {"executable": str, "version": str},
            "runtimes": {"onnxruntime": FOUND, "ai-edge-litert": FOUND, "tflite-runtime": FOUND},
            "base": {"missing": [str]},
            "extras": dict.fromkeys(EXTRAS, EXTRA),
            "profile": {
                "qualified_name": (str, type(None)),
                "title": (str, type(None)),
                "reasons": [str],
            },
            "disk": [{"path": str, "free_bytes": int, "total_bytes": int, "writable": bool}],
        },
    )
    assert value["machine"]["cpu_model"] == machine.cpu_model
    assert value["profile"]["qualified_name"] == fitting_profile(machine)[0].qualified_name
    onnxruntime = value["runtimes"]["onnxruntime"]
    assert onnxruntime == {
        "installed": True,
        "version": metadata.version("onnxruntime"),
        "works": True,
        "problem": None,
        "note": None,
    }


def test_people_get_the_same(edgewise):
    result = edgewise("doctor")
    assert result.code == 0
    headings = [line for line in result.out.splitlines() if not line.startswith(" ")]
    names = ["machine", "runtimes", "installation", "profile", "disk"]
    assert [heading.split()[0].rstrip(":") for heading in headings] == names
    assert f"onnxruntime     {metadata.version('onnxruntime')}, works" in result.out
    assert detect_machine().cpu_model in result.out
    assert " free" in result.out


def test_optimum_may_be_in_an_environment_of_its_own(edgewise, monkeypatch):
    monkeypatch.setattr("edgewise.cli.doctor.missing_modules", lambda modules: modules)
    for named, installed in ((sys.executable, True), ("/nowhere/python", False)):
        monkeypatch.setenv("EDGEWISE_OPTIMUM_PYTHON", named)
        extras = json.loads(edgewise("doctor", "--json").out)["extras"]
        assert extras["optimum"]["installed"] is installed
        assert not extras["export"]["installed"]


def test_what_is_missing_comes_with_its_command(edgewise, monkeypatch):
    monkeypatch.setattr("edgewise.cli.doctor.missing_modules", lambda modules: modules)
    monkeypatch.delenv("EDGEWISE_OPTIMUM_PYTHON", raising=False)
    text = edgewise("doctor").out
    assert {"export", "litert", "vision"} <= set(EXTRAS)
    for extra in set(EXTRAS) - {"optimum"}:
        assert f"missing: pip install 'edgewise[{extra}]'" in text
    # Optimum would bring its own transformers, and a torch of several GB, into this environment.
    assert "missing: python -m venv optimum && optimum/bin/pip install 'optimum-onnx[" in text
    assert "onnxruntime     not installed" in text
    assert "lacks jinja2, numpy, onnxruntime, paho, tokenizers: pip install edgewise" in text
    value = json.loads(edgewise("doctor", "--json").out)
    assert value["runtimes"]["onnxruntime"]["installed"] is False


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that the doctor's own process can import."""

    def write(content):
        (tmp_path / "some_runtime.py").write_text(content)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "some_runtime"

    return write


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "lacks an instruction"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("raise ImportError('libgomp.so.1: no such file')", "libgomp.so.1: no such file"),
        ("import time; time.sleep(60)", "takes over 0.5 seconds"),
    ],
)
def test_a_runtime_that_does_not_import_is_told_apart(module, monkeypatch, content, expected):
    if "sleep" in content:
        monkeypatch.setattr(doctor, "IMPORT_SECONDS", 0.5)
    assert expected in doctor.import_problem(module(content))


def test_a_runtime_that_imports_has_no_problem(module):
    assert doctor.import_problem(module("ready = True")) is None


def test_a_broken_runtime_is_shown_and_still_exits_with_0(edgewise, monkeypatch):
    monkeypatch.setattr("edgewise.cli.doctor.import_problem", lambda _module: "its import fails")
    result = edgewise("doctor")
    assert result.code == 0
    assert f"{metadata.version('onnxruntime')}, but its import fails" in result.out


def test_a_cpu_that_the_accelerators_of_litert_refuse_is_told(edgewise, monkeypatch):
    cpuinfo = "Features\t: fp asimd evtstrm crc32 cpuid\n" * 4  # a Raspberry Pi 4
    library = "edgewise.runtime.backends.litert_library"
    monkeypatch.setattr(f"{library}.platform.machine", lambda: "aarch64")
    monkeypatch.setattr(f"{library}._cpu_information", lambda: cpuinfo)
    monkeypatch.setattr("edgewise.cli.doctor.missing_modules", lambda _modules: ())
    monkeypatch.setattr("edgewise.cli.doctor.import_problem", lambda _module: None)
    found = json.loads(edgewise("doctor", "--json").out)["runtimes"]
    note = found["ai-edge-litert"]["note"]
    assert "lacks aes, asimddp, asimdhp, asimdrdm, atomics, lrcpc, sha2, its accel" in note
    assert "Edgewise loads it without them" in note
    assert found["onnxruntime"]["note"] is found["tflite-runtime"]["note"] is None
    assert ", works; on this CPU, which lacks" in edgewise("doctor").out


def test_litert_is_imported_with_what_was_compiled(monkeypatch):
    monkeypatch.setattr(
        "edgewise.cli.doctor.subprocess.run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, "", command[-1]),
    )
    assert "import ai_edge_litert.compiled_model" in doctor.import_problem("ai_edge_litert")


def test_a_machine_without_a_profile_is_told_why(edgewise, monkeypatch):
    import dataclasses

    strange = dataclasses.replace(detect_machine(), architecture="riscv64", board=None)
    monkeypatch.setattr("edgewise.firmware_profiles.detect_machine", lambda: strange)
    result = edgewise("doctor")
    assert result.code == 0
    assert "profile: none" in result.out
    assert "no profile is for riscv64" in result.out


def test_the_space_of_a_folder_that_is_not_there_yet(tmp_path):
    found = doctor.examine_disk(tmp_path / "a" / "b")
    assert found["path"].endswith("/a/b")
    assert found["free_bytes"] > 0
    assert found["writable"]


def test_python_is_the_one_that_runs(edgewise):
    assert json.loads(edgewise("doctor", "--json").out)["python"]["executable"] == sys.executable

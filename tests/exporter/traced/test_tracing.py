"""The interpreter that has Optimum: found, refused, run, and quoted when it fails."""

import json
import sys
from pathlib import Path

import pytest
from traced_cases import write_interpreter

from edgewise.exporter.traced.tracing import (
    PROGRAM,
    VARIABLE,
    TracingError,
    find_interpreter,
    trace,
)

TASK = "text-generation-with-past"


def write_script(path: Path, body: str) -> str:
    """Write an interpreter that does as it likes with what it is given to run."""
    path.write_text(f"#!{sys.executable}\nimport json, os, pathlib, sys\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_the_given_interpreter_counts_before_the_variable_and_this_one(tmp_path, monkeypatch):
    given = write_interpreter("gpt_neox", tmp_path / "given")
    named = write_interpreter("gpt_neox", tmp_path / "named")
    monkeypatch.setenv(VARIABLE, str(named))
    assert find_interpreter(given) == str(given)
    assert find_interpreter(None) == str(named)


def test_this_interpreter_lacks_optimum_and_the_way_out_is_named(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(TracingError) as caught:
        find_interpreter(None)
    message = str(caught.value)
    assert f"not installed for {sys.executable}" in message
    assert "pip install 'optimum-onnx[onnxruntime]' torch==2.13.0" in message
    assert "--optimum-python" in message
    assert VARIABLE in message


def test_what_is_no_interpreter_is_refused(tmp_path):
    (tmp_path / "text").write_text("no program")
    for path in (tmp_path / "text", tmp_path / "absent"):
        with pytest.raises(TracingError, match="can not be run as a Python interpreter"):
            find_interpreter(path)


def test_the_program_gets_folders_and_a_task_and_nothing_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("HF_TOKEN", "kept")
    script = write_script(
        tmp_path / "python",
        "names = ('PYTHONPATH', 'HF_TOKEN', 'HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE')\n"
        "seen = {'arguments': sys.argv[1:], 'values': [os.environ.get(name) for name in names]}\n"
        "pathlib.Path(sys.argv[5], 'model.onnx').write_text(json.dumps(seen))",
    )
    (tmp_path / "out").mkdir()
    path = trace(script, tmp_path / "checkpoint", tmp_path / "out", TASK)
    seen = json.loads(path.read_text())
    assert seen["values"] == [None, "kept", "1", "1"]
    assert seen["arguments"] == [
        "-I",
        "-c",
        PROGRAM.read_text(),
        str(tmp_path / "checkpoint"),
        str(tmp_path / "out"),
        TASK,
    ]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit('ValueError: no config\\n  for novel')", "ValueError: no config for novel"),
        ("sys.exit('.' * 5000)", r"text-generation-with-past: \.{1500}$"),
        ("sys.exit(3)", "it ended with code 3"),
        ("sys.exit(0)", "it ended with code 0"),  # and there is no graph
    ],
)
def test_what_the_program_says_last_is_quoted(tmp_path, body, words):
    script = write_script(tmp_path / "python", body)
    (tmp_path / "out").mkdir()
    with pytest.raises(TracingError, match=words) as caught:
        trace(script, tmp_path / "novel", tmp_path / "out", TASK)
    assert str(caught.value).startswith("Optimum could not trace novel for text-generation")
    assert "\n" not in str(caught.value)

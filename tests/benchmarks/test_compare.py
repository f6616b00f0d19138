"""The comparison as a whole, with engines that are small scripts."""

import json
import os
import sys
import textwrap
import time

import compare
import engine_process
import pytest
from engine_process import Engine, EngineError
from workloads import TASKS

ENGINE = """
    import json, sys
    task = json.loads(sys.argv[1])
    assert task["begin"] > 0 and task["threads"] == 2
    speed = float(open(task["model"]).read())
    if speed < 0:
        sys.exit("out of memory")
    if task["kind"] == "speed" and task["prefill"]:
        print(json.dumps({"prefill_512": 100 * speed}))
    else:
        print("{}")
"""


@pytest.fixture
def engines(monkeypatch, tmp_path):
    """Engines of three kinds; their models are files with a number, by which they are fast."""
    for kind in ("edgewise", "llama_cpp", "openvino"):
        (tmp_path / f"{kind}_engine.py").write_text(textwrap.dedent(ENGINE))
    monkeypatch.setattr(engine_process, "ENGINES", tmp_path)
    monkeypatch.setattr(Engine, "recipe", "int4")
    monkeypatch.setattr(compare, "wait_until_quiet", lambda patience: 1.0)

    def make(name, kind, speed):
        (tmp_path / name).write_text(str(speed))
        return f"{name}={kind}:{tmp_path / name}"

    return make


def run(*engines, more=()):
    options = [part for engine in engines for part in ("--engine", engine)]
    return compare.main([*options, "--threads", "2", "--rounds", "2", *more])


def test_tables_and_json_of_all_engines(engines, tmp_path, capsys):
    file = tmp_path / "out.json"
    ours, peer = engines("ours", "edgewise", 3), engines("peer", "llama_cpp", 1)
    assert run(ours, peer, more=["--workload", "prefill", "--json", str(file)]) == 0
    output = capsys.readouterr().out
    assert "| prefill of 512, tokens/s | 300 [300-300] | 100 [100-100] | 3.00 |" in output
    assert "| prefill of 512 | at least 2.5x llama.cpp | 3x (ours) | met |" in output
    content = json.loads(file.read_text())
    assert [(one["round"], one["engine"]) for one in content["measurements"]] == [
        (1, "ours"),
        (1, "peer"),
        (2, "ours"),
        (2, "peer"),
    ]
    assert content["failures"] == []
    assert "\n".join(content["table"]) in output
    assert "\n".join(content["aims"]) in output


def test_an_engine_that_fails_does_not_end_the_others(engines, capsys):
    broken, peer = engines("broken", "openvino", -1), engines("peer", "llama_cpp", 1)
    assert run(broken, peer, more=["--workload", "prefill"]) == 1
    output = capsys.readouterr()
    assert "| prefill of 512, tokens/s | - | 100 [100-100] | - |" in output.out
    assert "broken failed in 'speed':\nout of memory" in output.err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ours=edgewise", "is not NAME=KIND:MODEL"),
        ("ours=unknown:.", "KIND one of edgewise, llama_cpp, openvino"),
        ("ours=edgewise:nowhere", "there is no nowhere"),
    ],
)
def test_engines_that_are_not_told_rightly(engines, capsys, given, message):
    with pytest.raises(SystemExit):
        run(given)
    assert message in capsys.readouterr().err


def test_engines_are_needed_and_have_names_of_their_own(engines, capsys):
    with pytest.raises(SystemExit):
        run()
    one = engines("one", "edgewise", 1)
    with pytest.raises(SystemExit):
        run(one, one)
    assert "names of their own" in capsys.readouterr().err


def test_an_engine_that_does_not_end_is_ended_with_what_it_started(monkeypatch, tmp_path):
    script = """
        import pathlib, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        pathlib.Path(__file__).with_name("child").write_text(str(child.pid))
        time.sleep(60)
    """
    (tmp_path / "slow_engine.py").write_text(textwrap.dedent(script))
    monkeypatch.setattr(engine_process, "ENGINES", tmp_path)
    monkeypatch.setattr(engine_process, "LONGEST_SECONDS", 5.0)
    engine = Engine("slow", "slow", "model", sys.executable)
    with pytest.raises(EngineError, match="slow took more than 5 s"):
        engine.run(TASKS["cold"], 1)
    child = int((tmp_path / "child").read_text())
    for _ in range(100):  # an orphan's end is noticed by its new parent a little later
        if not _is_alive(child):
            break
        time.sleep(0.05)
    assert not _is_alive(child)


def _is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as status:  # noqa: PTH123
        return status.read().rpartition(")")[2].split()[0] != "Z"

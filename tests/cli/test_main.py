"""The command itself: help, version, exit codes, what is loaded, environment defaults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from edgewise.cli.main import edgewise as root_command
from edgewise.common.version import VERSION

COMMANDS = [
    "plan",
    "export",
    "run",
    "warm",
    "inspect",
    "bench",
    "agent",
    "request",
    "serve",
    "profiles",
    "doctor",
    "demo",
    "completion",
]
SLOW = {"numpy", "onnxruntime", "onnx", "tokenizers", "paho", "amqtt", "jinja2", "gguf"}


def test_the_entry_point_loads_nothing_slow():
    code = "import sys, edgewise.cli.main; print(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    modules = result.stdout.split()
    assert not SLOW & {name.partition(".")[0] for name in modules}
    stages = {name.split(".")[1] for name in modules if name.startswith("edgewise.")}
    assert stages == {"cli", "common"}


@pytest.mark.parametrize(
    "arguments", [["--help"], *([name, "--help"] for name in COMMANDS), ["doctor", "-h"]]
)
def test_help_loads_nothing_slow(arguments):
    code = (
        "import sys; from edgewise.cli.main import main; code = main(sys.argv[1:]);"
        "print('MODULES', *sys.modules); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    text, _, modules = result.stdout.partition("MODULES")
    assert text.startswith("Usage: edgewise")
    assert not SLOW & {name.partition(".")[0] for name in modules.split()}


def test_the_version_is_the_distributions(edgewise):
    result = edgewise("--version")
    assert (result.code, result.out, result.err) == (0, f"edgewise {VERSION}\n", "")


def test_without_arguments_it_shows_its_help(edgewise):
    result = edgewise()
    assert result.code == 0
    assert result.out == edgewise("--help").out


def test_the_commands_stand_in_the_order_of_the_work(edgewise):
    listed = edgewise("--help").out.partition("Commands:")[2].partition("Examples:")[0]
    assert [line.split()[0] for line in listed.splitlines() if line.strip()] == COMMANDS
    assert "..." not in listed  # each has room for its whole sentence


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["exprt"], "exprt"),
        (["run"], "'BUNDLE'"),
        (["run", "x", "y", "--nonsense"], "--nonsense"),
        (["run", "x", "y", "z"], "z"),
        (["run", "x", "y", "--seed", "one"], "'one' is not a valid integer"),
        (["completion", "tcsh"], "bash"),
        (["--nonsense"], "--nonsense"),
        (["request", "--broker", "mqtt://x", "p"], "--device"),
        (["agent", "--broker", "mqtt://x", "--device", "d"], "--bundle"),
        (["export", "x", "--profile", "x86_64"], "--output"),
    ],
)
def test_a_mistake_in_the_form_is_one_sentence_that_names_the_help(edgewise, arguments, expected):
    message = edgewise(*arguments).mistake()
    assert expected in message
    assert "--help" in message
    assert "\n" not in message
    assert "Usage" not in message


def test_a_mistyped_option_is_met_with_the_nearest(edgewise):
    assert "--profile" in edgewise("export", "x", "--profle", "y").mistake()


def _break(*_arguments, **_settings):
    raise KeyError("inner workings")


def test_a_fault_of_ours_says_so_and_how_to_see_more(edgewise, monkeypatch, bundle):
    monkeypatch.setattr("edgewise.runtime.bundle.open_bundle", _break)
    result = edgewise("inspect", bundle)
    assert result.code == 1
    assert result.out == ""
    assert "Traceback" not in result.err
    assert result.err.count("\n") == 1
    for part in ("KeyError", "inner workings", "a fault of ours", "--debug", "EDGEWISE_DEBUG"):
        assert part in result.err


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_fault_of_ours_shows_its_traceback_when_asked(edgewise, monkeypatch, bundle, how):
    monkeypatch.setattr("edgewise.runtime.bundle.open_bundle", _break)
    if how == "environment":
        monkeypatch.setenv("EDGEWISE_DEBUG", "1")
    result = edgewise(*(["--debug"] if how == "option" else []), "inspect", bundle)
    assert result.code == 1
    assert "Traceback (most recent call last)" in result.err
    assert "in _break" in result.err


def test_a_users_mistake_shows_its_traceback_only_when_asked(edgewise, tmp_path):
    edgewise("inspect", tmp_path).mistake()
    result = edgewise("--debug", "inspect", tmp_path)
    assert result.code == 2
    assert "Traceback" in result.err


def test_an_option_has_its_default_in_the_environment(edgewise, monkeypatch, bundle):
    monkeypatch.setenv("EDGEWISE_RUN_MAX_TOKENS", "3")
    assert edgewise("run", bundle, "Hi").out == "The\n"
    assert edgewise("run", bundle, "Hi", "--max-tokens", "11").out == "The capital\n"
    monkeypatch.setenv("EDGEWISE_RUN_MAX_TOKENS", "three")
    assert "'three'" in edgewise("run", bundle, "Hi").mistake()


def test_every_option_has_help(edgewise):
    for name, command in root_command.commands.items():
        text = edgewise(name, "--help").out
        assert "Examples:" in text
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help or name == "demo", (name, parameter.name)
                assert max(parameter.opts, key=len) in text


def test_a_reader_that_goes_ends_it_quietly(spawn, slow_bundle):
    process = spawn("run", slow_bundle, "Hi", "--json", "--stream")
    assert process.stdout.readline().startswith(b"{")
    process.stdout.close()
    process.stdout = None
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGPIPE
    assert error == b""


def test_a_reader_that_was_never_there_ends_it_quietly(spawn):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        for arguments in (["--help"], ["profiles"], ["profiles", "--json"], ["completion", "zsh"]):
            process = spawn(*arguments, stdout=writing)
            _, error = process.communicate(timeout=60)
            assert (process.returncode, error) == (128 + signal.SIGPIPE, b""), arguments
    finally:
        os.close(writing)


def test_closed_streams_are_no_fault(tmp_path):
    script = f'"{sys.executable}" -m edgewise.cli "$@" >&- 2>&-'
    for arguments, code in ((["profiles"], 0), (["inspect", tmp_path], 2)):
        result = subprocess.run(
            ["sh", "-c", script, "sh", *map(str, arguments)], check=False, timeout=60
        )
        assert result.returncode == code


def test_a_term_signal_unwinds_and_is_told_by_the_code(spawn, slow_bundle):
    process = spawn("run", slow_bundle, "Hi")
    assert process.stdout.read(1) == b"w"
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"Traceback" not in error

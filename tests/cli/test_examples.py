"""The examples at the end of every command's help: their options exist, the cheap ones work."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgewise.cli.main import edgewise as root_command
from edgewise.runtime.backends.fake_bundle import (
    write_fake_encoder_bundle,
    write_fake_sequence_bundle,
)

ROOT = Path(__file__).parents[2]


def examples_of(command):
    """Return the example lines of a command, as they are typed."""
    lines = (command.epilog or "").splitlines()
    return [line.strip() for line in lines[lines.index("Examples:") + 1 :]]


def ours(line):
    """Return the arguments of the `edgewise` in a shell line."""
    match = re.search(r"(?:^|\| |\$\(|\s)edgewise(?P<rest>(?:'[^']*'|\"[^\"]*\"|[^|>)])*)", line)
    assert match, line
    return shlex.split(match["rest"])


EXAMPLES = [
    (name, line)
    for name, command in [("edgewise", root_command), *root_command.commands.items()]
    for line in examples_of(command)
]


def documented():
    """Return the shell lines of docs/cli.md that call us."""
    text = (ROOT / "docs" / "cli.md").read_text()
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    lines = [line.partition("  #")[0].strip() for line in joined.splitlines()]
    return [line for line in lines if re.search(r"(^|[|(= ])edgewise ", line)]


def test_every_command_has_examples_of_itself():
    for name, command in root_command.commands.items():
        lines = examples_of(command)
        assert lines
        assert all(ours(line)[0] == name for line in lines)


@pytest.mark.parametrize("line", [*dict.fromkeys(line for _, line in EXAMPLES), *documented()])
def test_an_example_has_only_options_that_exist(line):
    options = list(itertools.takewhile(lambda word: word.startswith("-"), ours(line)))
    name, *rest = ours(line)[len(options) :]
    with root_command.make_context("edgewise", [*options, name]) as context:
        command = root_command.get_command(context, name)
        with command.make_context(name, rest, parent=context) as inner:
            assert inner.params


@pytest.mark.parametrize(
    "line", [line for name, line in EXAMPLES if name in {"profiles", "completion", "doctor"}]
)
def test_the_cheap_examples_work(line, edgewise):
    result = edgewise(*ours(line))
    assert result.code == 0
    assert result.out
    assert result.err == ""


@pytest.fixture(scope="module")
def shelf(bundle, tmp_path_factory):
    """A folder with the bundles of the examples, all fake, and the files that they read."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "smollm2").symlink_to(bundle)
    write_fake_sequence_bundle(folder / "flan-t5")
    words = {"translation-en-to-de": "translate English to German: "}
    write_fake_sequence_bundle(folder / "t5-small", prefixes=words)
    labels = ("sad", "happy", "angry")
    write_fake_encoder_bundle(folder / "moods", tasks=("classify",), labels=labels)
    write_fake_encoder_bundle(folder / "bert")
    write_fake_encoder_bundle(folder / "minilm", tasks=("embed",))
    (folder / "question.txt").write_text("Hi\n")
    (folder / "reading.json").write_text('{"type": "object", "properties": {"degrees": {}}}')
    (folder / "comments.txt").write_text("Good.\nBad.\n")
    return folder


@pytest.mark.parametrize("line", [line for name, line in EXAMPLES if name in {"run", "inspect"}])
def test_the_examples_with_a_bundle_work_in_a_shell(line, shelf):
    if line == "edgewise run smollm2":
        line += " < question.txt"  # a conversation, which test_chat.py holds at a terminal
    if "| jq" in line and shutil.which("jq") is None:
        line = line.partition(" | jq")[0]
    program = f"edgewise() {{ '{sys.executable}' -m edgewise.cli \"$@\"; }}\n"
    result = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", program + line],
        cwd=shelf,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout
    if line.endswith("--json"):
        assert json.loads(result.stdout)

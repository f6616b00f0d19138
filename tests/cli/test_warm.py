"""``edgewise warm``: what is saved, what it is told of, mistakes."""

from __future__ import annotations

import json

import pytest

from edgewise.runtime.backends.fake_bundle import (
    write_fake_bundle,
    write_fake_sequence_bundle,
)
from edgewise.runtime.cache_folder import FOLDER, PREFIX_SUFFIX


@pytest.fixture
def own_bundle(tmp_path):
    """A bundle that no other test sees, for its folder is written to."""
    return write_fake_bundle(tmp_path / "bundle")


def test_an_answer_reuses_what_was_saved(edgewise, own_bundle, tmp_path):
    file = tmp_path / "beginning.txt"
    file.write_text("Sum up what follows in one sentence: \n")
    result = edgewise("warm", own_bundle, "--prompt", file)
    assert result.code == 0
    assert result.out.startswith("Saved 38 tokens, ")
    (saved,) = (own_bundle / FOLDER).glob(f"*{PREFIX_SUFFIX}")
    assert result.out.endswith(f": {saved}\n")
    prompt = "Sum up what follows in one sentence: it rained."
    answer = json.loads(edgewise("run", own_bundle, prompt, "--json").out)
    assert answer["statistics"]["reused_tokens"] == 38


def test_json_and_a_system_text(edgewise, own_bundle):
    system = "Watch the greenhouse and answer briefly."
    told = json.loads(edgewise("warm", own_bundle, "--system", system, "--json").out)
    assert told.keys() == {"path", "tokens", "bytes"}
    arguments = ("run", own_bundle, "How is it?", "--system", system, "--json")
    answer = json.loads(edgewise(*arguments).out)
    assert answer["statistics"]["reused_tokens"] == told["tokens"]


def test_mistakes(edgewise, own_bundle, tmp_path):
    assert "Give --prompt FILE, --system TEXT, or both." in edgewise("warm", own_bundle).err
    missing = tmp_path / "missing.txt"
    mistake = edgewise("warm", own_bundle, "--prompt", missing).mistake()
    assert mistake == f"{missing} can not be read: No such file or directory."
    short = tmp_path / "short.txt"
    short.write_text("Hi")
    assert "at least 16" in edgewise("warm", own_bundle, "--prompt", short).mistake()
    other = write_fake_sequence_bundle(tmp_path / "sequence")
    assert "accepted: a decoder" in edgewise("warm", other, "--system", "x" * 40).mistake()
    assert not (own_bundle / FOLDER).exists()

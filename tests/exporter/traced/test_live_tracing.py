"""Optimum itself, where its interpreter is named: two ways to the same model.

EDGEWISE_OPTIMUM_PYTHON=optimum/bin/python pytest -m slow tests/exporter/traced
"""

import os

import numpy as np
import pytest
from tiny_checkpoint import load_case, write_checkpoint
from tiny_families import TinyEncoderDecoder
from tiny_family_folders import write_family_folder

from edgewise.exporter import export
from edgewise.exporter.traced.tracing import VARIABLE
from edgewise.runtime.engines import engine_factory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no interpreter"),
]


@pytest.mark.parametrize("name", ["bart", "t5_v1_1"])
def test_two_traced_graphs_give_what_the_definition_does(name, tmp_path):
    model = TinyEncoderDecoder(name)
    folder = write_family_folder(model, tmp_path / "checkpoint")
    report = export(
        str(folder),
        profile="x86_64",
        output=tmp_path / "bundle",
        runtime="onnx",
        recipe="fp32",
        via="optimum",
    )
    backend = engine_factory(report.bundle.manifest)(report.bundle, threads=1, slots=2, capacity=32)
    backend.read_source(0, model.ids, model.counts)
    expected = model.expected()["logits"]
    largest = 0.0
    for past in range(model.targets.shape[1]):
        pasts = np.full(2, past, np.int32)
        logits = backend.step(0, model.targets[:, past : past + 1], pasts)
        largest = max(largest, float(np.abs(logits - expected[:, past]).max()))
    backend.close()
    print(f"{name}: {largest:.2g}, logits within {np.abs(expected).max():.3g}")
    assert largest < 1e-4


@pytest.mark.parametrize("name", ["llama_tied_wide_head", "qwen2_untied", "gpt2_tied"])
def test_a_traced_graph_gives_what_the_definition_does(name, tmp_path):
    """Both take the same weights, one through transformers, one never touching it."""
    case = load_case(name)
    checkpoint = write_checkpoint(case, tmp_path / "checkpoint")
    logits = {}
    for via in (None, "optimum"):
        report = export(
            str(checkpoint),
            profile="x86_64",
            output=tmp_path / str(via),
            runtime="onnx",
            recipe="fp32",
            via=via,
        )
        backend = engine_factory(report.bundle.manifest)(report.bundle, threads=1, capacity=64)
        ids = np.asarray([case.sequences[0]], np.int64)
        first = backend.step(0, ids[:, :-1], np.zeros(1, np.int32)).copy()
        second = backend.step(0, ids[:, -1:], np.full(1, ids.shape[1] - 1, np.int32)).copy()
        logits[via] = np.concatenate([first, second])
        backend.close()
        assert report.plan.tied_head == ("untied" not in name)
    expected = case.expected_logits()[0][-2:]
    difference = float(np.abs(logits["optimum"] - logits[None]).max())
    print(f"{name}: {difference:.2g}, logits within {np.abs(expected).max():.3g}")
    assert difference < 1e-4 * max(1.0, float(np.abs(expected).max()))
    assert np.abs(logits["optimum"] - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())

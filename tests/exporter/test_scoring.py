"""Decoders with a scoring head, from checkpoint to the numbers of a text."""

import numpy as np
import pytest
from tiny_checkpoint import TinyModel, load_case

from edgewise.exporter import export
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.runtime import load
from edgewise.runtime.slot_pool import ContextError
from edgewise.runtime.tasks import TaskError

TEXT = "def simple_math_problem() -> int:\n    return 3 * 5"


def expected(name, ids):
    model = TinyModel(load_case(name))
    builder = NumpyBuilder(np.asarray([ids]), last_positions=1)
    model.forward(builder)
    return builder.logits[0, 0]


@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
@pytest.mark.parametrize("name", ["phi_score", "llama_score"])
def test_a_text_gets_the_scores_of_its_last_token(tiny_folder, tmp_path, name, runtime):
    report = export(
        str(tiny_folder(name)),
        profile="raspberry_pi_5",
        runtime=runtime,
        output=tmp_path / "bundle",
        recipe="fp32",
    )
    assert report.verification is not None
    assert report.verification.passed
    manifest = report.bundle.manifest
    labels = ("correct",) if name == "phi_score" else ("bad", "fair", "good")
    assert (manifest.tasks, manifest.labels) == (("score",), labels)
    for chunk in (7, 256):
        with load(report.bundle.path, prefill_chunk=chunk) as model:
            scores = model.score(TEXT)
            assert tuple(scores) == labels
            ids = model.tokenizer.encode(TEXT)
            assert list(scores.values()) == pytest.approx(expected(name, ids), abs=1e-4)
            again = model.score(TEXT)  # of which all but the last token is computed already
            assert list(again.values()) == pytest.approx(list(scores.values()), abs=1e-5)
            assert model.score(TEXT[:-1]) != scores


def test_what_scores_does_not_generate_and_the_other_way_round(tiny_folder, tmp_path, bundle):
    report = export(
        str(tiny_folder("phi_score")),
        profile="raspberry_pi_5",
        output=tmp_path / "bundle",
        verification=False,
    )
    with load(report.bundle.path) as model:
        with pytest.raises(TaskError, match="generate"):
            model.generate(TEXT)
        with pytest.raises(ContextError):
            model.score("x" * 200)
        with pytest.raises(ContextError):
            model.score("")
    with load(bundle.path) as model, pytest.raises(TaskError, match="score"):
        model.score(TEXT)

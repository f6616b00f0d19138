"""Decoders' graphs, run by the back end of each runtime, against what transformers computes."""

import numpy as np
import pytest
from decoder_graphs import built, step
from tiny_checkpoint import CASES, TinyModel, load_case
from tiny_families import on_the_left, padded

from edgewise.runtime.padded_rows import in_front

TOLERANCE = 1e-4


@pytest.fixture(
    scope="module", params=[(run, name) for run in ("onnx", "tflite") for name in CASES]
)
def exported(request, tmp_path_factory):
    """A case, its fp32 graphs loaded with two slots, and what transformers computes."""
    runtime, name = request.param
    case = load_case(name)
    backend = built(runtime, TinyModel(case), tmp_path_factory.mktemp(case.name))
    yield case, backend, case.expected_logits()
    backend.close()


def test_one_pass_equals_transformers(exported):
    case, backend, expected = exported
    for slot, sequence in enumerate(case.sequences):
        actual = step(backend, slot, sequence, 0)
        assert np.abs(actual - expected[slot][-1]).max() < TOLERANCE


def test_a_chunked_prompt_equals_transformers(exported):
    case, backend, expected = exported
    sequence, at = case.sequences[0], 0
    for size in (8, 1, 9, len(sequence) - 18):
        actual = step(backend, 0, sequence[at : at + size], at)
        at += size
        assert np.abs(actual - expected[0][at - 1]).max() < TOLERANCE


def test_a_batch_padded_before_its_tokens_equals_transformers(exported):
    case, backend, expected = exported
    prompts = [sequence[:-3] for sequence in case.sequences]
    ids, mask = padded(prompts)
    rows = in_front(on_the_left(ids, mask, fill=7), on_the_left(mask, mask))
    counts = rows.counts
    logits = backend.step(0, rows.token_ids, np.zeros(2, np.int32), counts).copy()
    for step_index in range(3):
        for row in range(2):
            reference = expected[row][counts[row] - 1 + step_index]
            assert np.abs(logits[row] - reference).max() < TOLERANCE
        tokens = [[case.sequences[row][counts[row] + step_index]] for row in range(2)]
        past = (counts + step_index).astype(np.int32)
        logits = backend.step(0, np.asarray(tokens), past).copy()

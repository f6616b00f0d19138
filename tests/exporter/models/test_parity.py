"""The numpy reference against transformers, in every way a sequence can be fed."""

import numpy as np
import pytest
from tiny_checkpoint import CASES, TinyModel, load_case

from edgewise.exporter.graph.numpy_builder import NumpyBuilder, NumpyCache

TOLERANCE = 1e-4


def logits(model, token_ids, cache=None, last_positions=None):
    builder = NumpyBuilder(np.asarray(token_ids), cache, last_positions=last_positions)
    model.forward(builder)
    return builder.logits


@pytest.mark.parametrize("name", CASES)
def test_every_position_equals_transformers(name):
    case = load_case(name)
    model = TinyModel(case)
    for sequence, expected in zip(case.sequences, case.expected_logits(), strict=True):
        actual = logits(model, [sequence])[0]
        assert np.abs(actual - expected).max() < TOLERANCE
        assert np.ptp(expected) > 1  # logits that are all alike would prove nothing


@pytest.mark.parametrize("name", CASES)
def test_chunks_and_single_steps_equal_one_pass(name):
    case = load_case(name)
    model = TinyModel(case)
    sequence, expected = case.sequences[0], case.expected_logits()[0]
    cache, at = NumpyCache(), 0
    for size in (7, 1, 4, *[1] * (len(sequence) - 12)):
        actual = logits(model, [sequence[at : at + size]], cache)[0]
        assert np.abs(actual - expected[at : at + size]).max() < TOLERANCE
        at += size
    assert cache.length == len(sequence)


def test_batch_rows_do_not_touch_each_other():
    case = load_case(CASES[0])
    model = TinyModel(case)
    length = len(case.sequences[1])
    rows = [case.sequences[0][:length], case.sequences[1]]
    together = logits(model, rows)
    for row, alone in zip(together, rows, strict=True):
        assert np.abs(row - logits(model, [alone])[0]).max() < 3e-5  # sums of another order


def test_last_positions_are_the_end_of_all():
    case = load_case(CASES[0])
    model = TinyModel(case)
    every = logits(model, [case.sequences[0]])
    assert np.abs(logits(model, [case.sequences[0]], last_positions=3) - every[:, -3:]).max() < 1e-5

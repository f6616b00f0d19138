"""Weights made of others: rows, transposes and shifts read what they say, wherever they are cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoint import ArraySource

from edgewise.exporter.graph import derived_weights
from edgewise.exporter.graph.derived_weights import RowsOf, Shifted, Transposed
from edgewise.exporter.graph.weight import Weight

MATRIX = np.random.default_rng(5).normal(0, 1, (11, 7)).astype(np.float32)
SOURCE = ArraySource(MATRIX)


class Blocks(ArraySource):
    def read_blocks(self, start=0, stop=None):
        return np.arange(len(self.array), dtype=np.uint8)[start:stop, None]


def cuts(rows):
    return st.tuples(st.integers(0, rows), st.integers(0, rows)).map(sorted)


@given(cuts(11), st.data())
def test_rows_are_those_of_the_whole(part, data):
    first, end = part
    start, stop = data.draw(cuts(end - first))
    rows = RowsOf(Blocks(MATRIX), first, end)
    assert rows.shape == (end - first, 7)
    assert np.array_equal(rows.read(start, stop), MATRIX[first:end][start:stop])
    assert np.array_equal(rows.read(), MATRIX[first:end])
    assert rows.read_blocks(start, stop).ravel().tolist() == list(range(first, end))[start:stop]


@pytest.mark.parametrize("chunk_bytes", [1, 2 * 4 * 7, 1 << 20])
@given(cuts(7))
def test_a_transpose_reads_columns(chunk_bytes, part):
    start, stop = part
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(derived_weights, "CHUNK_BYTES", chunk_bytes)
        source = Transposed(SOURCE)
        assert source.shape == (7, 11)
        assert np.array_equal(source.read(start, stop), MATRIX.T[start:stop])
        assert np.array_equal(source.read(), MATRIX.T)
    assert source.read_blocks() is None


def test_a_shift_is_added_in_float32():
    shifted = Shifted(SOURCE, 1.0)
    assert shifted.shape == MATRIX.shape
    assert shifted.read(2, 5).dtype == np.float32
    assert np.array_equal(shifted.read(2, 5), MATRIX[2:5] + np.float32(1))
    assert shifted.read_blocks() is None


@pytest.mark.parametrize("source", [RowsOf(SOURCE, 2, 6), Transposed(SOURCE)])
@pytest.mark.parametrize(("start", "stop"), [(0, 8), (-1, 2), (3, 2)])
def test_rows_beyond_the_end_are_refused(source, start, stop):
    with pytest.raises(ValueError, match="not within"):
        source.read(start, stop)


def test_a_derived_weight_keeps_name_and_role():
    weight = Weight("norm.weight", "norm", SOURCE)
    assert weight.plus(0.0) is weight
    for derived in (weight.plus(1.0), weight.transposed()):
        assert (derived.name, derived.role) == ("norm.weight", "norm")
    part = weight.rows(0, 3, "part.weight")
    assert (part.name, part.role, part.shape) == ("part.weight", "norm", (3, 7))

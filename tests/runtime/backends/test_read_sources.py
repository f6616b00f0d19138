"""Which rows a step over slots binds, and that they are copied only where they must be."""

import numpy as np
import pytest

from edgewise.runtime.backends.read_sources import ReadSources, Sources


def sources(*names: int) -> Sources:
    values = np.asarray(names, np.float32)[:, None, None, None]
    return Sources(np.asarray(names, np.int64)[:, None], {"key": values, "value": values + 0.5})


def names(found: Sources | None) -> list[int] | None:
    if found is None:
        return None
    assert found.cross["value"][:, 0, 0, 0].tolist() == [name + 0.5 for name in found.mask[:, 0]]
    return found.mask[:, 0].tolist()


@pytest.fixture
def slots() -> ReadSources:
    result = ReadSources(6)
    result.read(1, sources(10, 11, 12))
    return result


def test_neighbours_that_were_read_together_are_not_copied(slots):
    assert names(slots.rows(1, 3)) == [10, 11, 12]
    assert names(slots.rows(2, 2)) == [11, 12]
    assert np.shares_memory(slots.rows(2, 1).cross["key"], slots.rows(1, 3).cross["key"])


def test_a_shared_source_is_repeated_once(slots):
    for target in (0, 2, 3, 4):
        slots.copy(1, target)
    four = slots.rows(0, 4)
    assert names(four) == [10] * 4
    assert np.shares_memory(four.cross["key"], slots.rows(1, 3).cross["key"])
    slots.copy(3, 2)
    assert np.shares_memory(four.cross["key"], slots.rows(0, 3).cross["key"])
    assert names(slots.rows(0, 5)) == [10] * 5
    slots.read(0, sources(20))
    assert names(slots.rows(0, 1)) == [20]
    assert names(slots.rows(1, 4)) == [10] * 4


def test_what_was_not_read_together_is_not_computed_together(slots):
    assert slots.rows(0, 1) is None
    assert slots.rows(0, 2) is None
    assert slots.rows(3, 2) is None
    slots.copy(1, 4)
    assert slots.rows(3, 2) is None
    slots.read(4, sources(13))
    assert slots.rows(3, 2) is None
    slots.forget(2)
    assert slots.rows(1, 3) is None
    assert names(slots.rows(3, 1)) == [12]

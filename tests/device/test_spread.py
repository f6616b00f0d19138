"""Figures that are measured several times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.device.spread import Percentiles, ProfilerError, Spread, check_counts, check_rounds

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)


def test_a_spread_is_median_least_and_most() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([4.0]) == Spread(4.0, 4.0, 4.0)
    assert Spread.of([1.0, 2.0]).median == 1.5


def test_percentiles_by_their_rank() -> None:
    assert Percentiles.of([7.0]) == Percentiles(7.0, 7.0, 7.0)
    assert Percentiles.of([float(n) for n in range(100, 0, -1)]) == Percentiles(50.0, 90.0, 99.0)
    assert Percentiles.of([float(n) for n in range(1, 51)]) == Percentiles(25.0, 45.0, 50.0)


@given(values)
def test_so_many_in_a_hundred_are_not_more(measured: list[float]) -> None:
    found = Percentiles.of(measured)
    for percent, value in ((50, found.p50), (90, found.p90), (99, found.p99)):
        assert value in measured
        assert 100 * sum(one <= value for one in measured) >= percent * len(measured)
        assert 100 * sum(one < value for one in measured) < percent * len(measured)


def test_numbers_that_make_no_sense_are_refused() -> None:
    for rounds in (0, 1001):
        with pytest.raises(ProfilerError, match=f"rounds is {rounds}; accepted: .* to 1000"):
            check_rounds(rounds)
    check_counts(a=None, b=1)
    with pytest.raises(ProfilerError, match="b is 0; accepted: a whole number from 1"):
        check_counts(a=1, b=0)

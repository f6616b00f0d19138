"""Delays grow to their maximum, stay in their bounds, and differ."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.device.backoff import Backoff


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 (it spreads delays)


@settings(deadline=None)
@given(st.integers())
def test_each_delay_is_between_half_of_its_ceiling_and_all_of_it(seed: int) -> None:
    backoff = Backoff(first_seconds=0.25, maximum_seconds=60.0, source=seeded(seed))
    ceiling = 0.25
    for _ in range(20):
        assert ceiling / 2 <= backoff.next_delay() <= ceiling
        ceiling = min(60.0, ceiling * 2)
    backoff.reset()
    assert 0.125 <= backoff.next_delay() <= 0.25


def test_two_clients_do_not_come_back_in_step() -> None:
    first = [Backoff(source=seeded(1)).next_delay() for _ in range(5)]
    second = [Backoff(source=seeded(2)).next_delay() for _ in range(5)]
    assert first != second

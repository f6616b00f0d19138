"""Figures that are measured several times, and what every measurement checks and tells."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from edgewise.common.errors import EdgewiseError

ROUNDS_MAX = 1000

Progress = Callable[[str, int, int], None]
"""Told what happens: the stage ("start" or "measure"), steps done, steps in all."""


class ProfilerError(EdgewiseError):
    """A measurement that the bundle's context has no room for, or that makes no sense."""


@dataclass(frozen=True)
class Spread:
    """A figure that was measured several times."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarize at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Percentiles:
    """How a figure that was measured many times is spread: so many in a hundred are not more."""

    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarize at least one value; each percentile is a value that was measured."""
        ordered = sorted(values)
        count = len(ordered)
        # The nearest rank: the least value that so many in a hundred do not exceed.
        return cls(*(ordered[-(-percent * count // 100) - 1] for percent in (50, 90, 99)))


def check_rounds(rounds: int) -> None:
    """Refuse a number of rounds that makes no sense.

    Raises:
        ProfilerError: It is outside what is accepted.
    """
    if not 1 <= rounds <= ROUNDS_MAX:
        raise ProfilerError(f"rounds is {rounds}; accepted: a whole number from 1 to {ROUNDS_MAX}.")


def check_counts(**counts: int | None) -> None:
    """Refuse counts below 1.

    Raises:
        ProfilerError: One is; None is accepted.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ProfilerError(f"{name} is {value}; accepted: a whole number from 1.")


def tell_nobody(_stage: str, _done: int, _total: int) -> None:
    """Report to nobody."""

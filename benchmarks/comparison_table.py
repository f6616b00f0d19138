"""Measurements of several engines as a table in Markdown: medians, spans and ratios.

Rule: a figure of a round counts for all engines or for none, so that what ratios are made of was
measured at one time.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """What one process of one round gave.

    Attributes:
        round: Which, from 1.
        engine: The engine's name.
        idle: Share of time that the machine was idle before it.
        figures: By name.
    """

    round: int
    engine: str
    idle: float
    figures: Mapping[str, float]


def table(
    measurements: Sequence[Measurement],
    engines: Sequence[str],
    figures: Mapping[str, str],
    least_idle: float,
) -> tuple[str, bool]:
    """Return the table, with ratios to the last engine, and whether every figure is there.

    Args:
        measurements: Of all rounds.
        engines: In the order of columns.
        figures: Rows: names and labels.
        least_idle: What idle share a measurement must have been begun with.
    """
    base = engines[-1]
    head = ["figure", *engines, *(f"{name} / {base}" for name in engines[:-1])]
    lines = [_row(head), "|---" * len(head) + "|"]
    complete = True
    for key, label in figures.items():
        values = counted_values(measurements, key, least_idle)
        taken = any(key in m.figures for m in measurements)
        complete = complete and (not taken or any(values.values()))
        cells = [_span(list(values.get(name, {}).values())) for name in engines]
        ratios = [_ratio(values.get(name, {}), values.get(base, {})) for name in engines[:-1]]
        lines.append(_row([label, *cells, *ratios]))
    return "\n".join(lines), complete


def counted_values(
    measurements: Sequence[Measurement], figure: str, least_idle: float
) -> dict[str, dict[int, float]]:
    """Return a figure by engine and round, without the rounds in which the machine was busy.

    Args:
        measurements: Of all rounds.
        figure: Its name.
        least_idle: What idle share a measurement must have been begun with.
    """
    taken = [m for m in measurements if figure in m.figures]
    busy = {m.round for m in taken if m.idle < least_idle}
    values: dict[str, dict[int, float]] = {}
    for m in taken:
        if m.round not in busy:
            values.setdefault(m.engine, {})[m.round] = m.figures[figure]
    return values


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _span(values: Sequence[float]) -> str:
    """Return "median [least-largest]"."""
    if not values:
        return "-"
    digits = 2 if max(values) < 10 else 0
    span = f"{min(values):.{digits}f}-{max(values):.{digits}f}"
    return f"{statistics.median(values):.{digits}f} [{span}]"


def _ratio(values: Mapping[int, float], base: Mapping[int, float]) -> str:
    """Return the median of the rounds' ratios."""
    ratios = [values[number] / base[number] for number in values.keys() & base.keys()]
    return f"{statistics.median(ratios):.2f}" if ratios else "-"

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


def labels(prefill: Sequence[int], histories: Sequence[int]) -> dict[str, str]:
    """Return all figures' names with what a reader calls them."""
    return {
        **{f"prefill_{tokens}": f"prefill of {tokens}, tokens/s" for tokens in prefill},
        **{f"decode_{tokens}": f"decode after {tokens}, tokens/s" for tokens in histories},
        "cold_seconds": "cold start to first token, s",
        "cold_packing_seconds": "the same, packing weights, s",
        "peak_rss_mib": "peak RSS, MiB",
        "anonymous_rss_mib": "peak anonymous RSS, MiB",
    }


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
        taken = [m for m in measurements if key in m.figures]
        busy = {m.round for m in taken if m.idle < least_idle}
        values = {
            name: {
                m.round: m.figures[key] for m in taken if m.engine == name and m.round not in busy
            }
            for name in engines
        }
        complete = complete and (not taken or any(values.values()))
        cells = [_span(list(values[name].values())) for name in engines]
        ratios = [_ratio(values[name], values[base]) for name in engines[:-1]]
        lines.append(_row([label, *cells, *ratios]))
    return "\n".join(lines), complete


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

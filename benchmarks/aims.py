"""What the comparison is meant to show, and whether it does: a table of aims in Markdown.

Rules: ratios are of one round and the median of them counts, as in the table of figures; a busy
round counts for nobody. Where several bundles of ours were measured, the best one answers for an
aim and is named; where one is about 4 bits, only bundles with 4 bits in their recipe may. The best
peer is the best of each round.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from comparison_table import Measurement, counted_values

Peers = Literal["any", "llama_cpp", "openvino", "none"]


@dataclass(frozen=True)
class Aim:
    """One line.

    Attributes:
        label: What a reader calls it.
        figure: Whose.
        target: The ratio to reach, or the figure itself where peers are "none".
        peers: Kinds of the engines to compare with.
        less_is_better: Whether the target is the most that there may be.
        bits_4: Whether only bundles with 4 bits count.
        unit: Of the figure itself.
    """

    label: str
    figure: str
    target: float
    peers: Peers = "any"
    less_is_better: bool = False
    bits_4: bool = False
    unit: str = ""

    @property
    def target_text(self) -> str:
        """What a reader sees as the aim."""
        at = "at most" if self.less_is_better else "at least"
        against = {"any": "the best peer", "llama_cpp": "llama.cpp", "openvino": "OpenVINO GenAI"}
        if self.peers == "none":
            return f"{at} {self.target:g}{self.unit}"
        return f"{at} {self.target:g}x {against[self.peers]}"

    def is_met(self, value: float) -> bool:
        """Return whether a figure or ratio reaches the target."""
        return value <= self.target if self.less_is_better else value >= self.target


SMALL: tuple[Aim, ...] = (
    Aim("decode, one stream, 4 bits", "decode_64", 1.2, bits_4=True),
    Aim("decode after 1,800 tokens, 4 bits", "decode_1800", 1.2, bits_4=True),
    Aim("prefill of 512", "prefill_512", 2.5, "llama_cpp"),
    Aim("prefill of 512", "prefill_512", 1.0, "openvino"),
    Aim("8 at once, end to end", "together_8", 1.5, "llama_cpp"),
    Aim("32 at once, end to end", "together_32", 1.5, "llama_cpp"),
    Aim(
        "template seen before, by the same unseen",
        "template_warm_share",
        0.2,
        "none",
        less_is_better=True,
        unit="x",
    ),
    Aim("template seen before", "template_warm_seconds", 0.5, "llama_cpp", less_is_better=True),
    Aim("JSON extraction by free text", "extraction_gain", 2.0, "none", unit="x"),
    Aim("JSON extraction, valid share", "extraction_valid", 1.0, "none"),
    Aim("cold start to first token", "cold_seconds", 0.8, less_is_better=True),
    Aim("peak RSS", "peak_rss_mib", 200.0, "none", less_is_better=True, unit=" MiB"),
    Aim("anonymous RSS", "anonymous_rss_mib", 64.0, "none", less_is_better=True, unit=" MiB"),
)
LARGE: tuple[Aim, ...] = (
    Aim("decode, one stream", "decode_64", 1.25, "llama_cpp"),
    Aim("prefill of 512", "prefill_512", 3.0, "llama_cpp"),
    Aim("8 at once, end to end", "together_8", 1.9, "llama_cpp"),
    Aim("anonymous RSS", "anonymous_rss_mib", 128.0, "none", less_is_better=True, unit=" MiB"),
)
AIMS: Mapping[str, tuple[Aim, ...]] = {"small": SMALL, "1b": LARGE}


@dataclass(frozen=True)
class Contender:
    """An engine, as far as aims look at it."""

    name: str
    kind: str
    recipe: str  # of a bundle of ours, else empty

    @property
    def is_ours(self) -> bool:
        """Whether it is measured against the others."""
        return self.kind == "edgewise"


def aims_table(
    aims: Sequence[Aim],
    contenders: Sequence[Contender],
    measurements: Sequence[Measurement],
    least_idle: float,
) -> str:
    """Return the table; a figure that was not measured is a dash and the aim open."""
    lines = ["| workload | aim | figure | |", "|---|---|---|---|"]
    for aim in aims:
        found = _best(aim, contenders, measurements, least_idle)
        if found is None:
            lines.append(f"| {aim.label} | {aim.target_text} | - | not measured |")
            continue
        value, name = found
        unit = aim.unit if aim.peers == "none" else "x"
        verdict = "met" if aim.is_met(value) else "**missed**"
        lines.append(
            f"| {aim.label} | {aim.target_text} | {value:.3g}{unit} ({name}) | {verdict} |"
        )
    return "\n".join(lines)


def _best(
    aim: Aim,
    contenders: Sequence[Contender],
    measurements: Sequence[Measurement],
    least_idle: float,
) -> tuple[float, str] | None:
    """Return the best of our figures or ratios and whose it is."""
    values = counted_values(measurements, aim.figure, least_idle)
    peers = [
        values.get(one.name, {})
        for one in contenders
        if not one.is_ours and aim.peers in {"any", one.kind}
    ]
    base = None if aim.peers == "none" else _best_of_rounds(peers, less=aim.less_is_better)
    found = []
    for one in contenders:
        if not one.is_ours or (aim.bits_4 and "int4" not in one.recipe):
            continue
        own = values.get(one.name, {})
        ratios = (
            list(own.values())
            if base is None
            else [own[number] / base[number] for number in own.keys() & base.keys()]
        )
        if ratios:
            found.append((statistics.median(ratios), one.name))
    if not found:
        return None
    return min(found) if aim.less_is_better else max(found)


def _best_of_rounds(peers: Collection[Mapping[int, float]], *, less: bool) -> dict[int, float]:
    rounds = {number for peer in peers for number in peer}
    best = min if less else max
    return {number: best(peer[number] for peer in peers if number in peer) for number in rounds}

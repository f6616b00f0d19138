"""A comparison as a picture, PNG and SVG: a panel for each figure, a bar for each engine.

    python benchmarks/picture.py out.json docs/performance

Bars are medians, the lines over them reach from the least to the largest of the rounds. Needs
matplotlib: pip install 'edgewise[benchmarks]'.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison_table import Measurement, counted_values

COLUMNS = 3
PANEL_INCHES = (4.2, 0.32)  # width, and height for each bar
OUR_COLOUR = "#1f6f78"
PEER_COLOUR = "#b8b8b8"
SAME_EACH_TIME: dict[Any, Any] = {
    "svg.hashsalt": "edgewise",
    "svg.fonttype": "none",
    "font.size": 8,
}


def panels(content: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Return each figure's values by engine, of the rounds that count; figures without one are out.

    Args:
        content: What `compare.py` writes.
    """
    measurements = [Measurement(**one) for one in content["measurements"]]
    order = [engine["name"] for engine in content["engines"]]
    found = {}
    for key, label in content["labels"].items():
        values = counted_values(measurements, key, content["least_idle"])
        if values:
            found[label] = {name: list(values[name].values()) for name in order if name in values}
    return found


def draw(content: Mapping[str, Any], file: Path) -> list[Path]:
    """Draw a comparison and return the files.

    Args:
        content: What `compare.py` writes.
        file: Where to, without the ending.

    Raises:
        SystemExit: matplotlib is not installed, or there is nothing to draw.
    """
    try:
        import matplotlib  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise SystemExit("pictures need matplotlib: pip install 'edgewise[benchmarks]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot  # noqa: PLC0415

    found = panels(content)
    if not found:
        raise SystemExit("there is nothing to draw: no figure was taken on a quiet machine")
    ours = {one["name"] for one in content["engines"] if one["kind"] == "edgewise"}
    rows = math.ceil(len(found) / COLUMNS)
    width, height = PANEL_INCHES
    with matplotlib.rc_context(SAME_EACH_TIME):
        figure, axes = pyplot.subplots(
            rows,
            COLUMNS,
            figsize=(width * COLUMNS, rows * (1.0 + height * len(content["engines"]))),
            squeeze=False,
            layout="constrained",
        )
        for axis in axes.flat[len(found) :]:
            axis.set_visible(False)
        for axis, (label, values) in zip(axes.flat, found.items(), strict=False):
            _panel(axis, label, values, ours)
        files = [file.with_name(f"{file.name}{ending}") for ending in (".png", ".svg")]
        for each in files:
            date = {"Date": None} if each.suffix == ".svg" else None
            figure.savefig(each, dpi=120, metadata=date)
        pyplot.close(figure)
    return files


def _panel(axis: Any, label: str, values: Mapping[str, Sequence[float]], ours: set[str]) -> None:
    names = list(values)
    medians = [statistics.median(values[name]) for name in names]
    below = [median - min(values[name]) for name, median in zip(names, medians, strict=True)]
    above = [max(values[name]) - median for name, median in zip(names, medians, strict=True)]
    colours = [OUR_COLOUR if name in ours else PEER_COLOUR for name in names]
    bars = axis.barh(names, medians, xerr=[below, above], color=colours, ecolor="#333333")
    axis.bar_label(bars, labels=[f"{median:.3g}" for median in medians], padding=4)
    axis.set_title(label)
    axis.invert_yaxis()
    axis.margins(x=0.2)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def main() -> int:
    """Draw what a file has."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path)
    parser.add_argument("picture", type=Path, help="without the ending")
    arguments = parser.parse_args()
    for file in draw(json.loads(arguments.json.read_text()), arguments.picture):
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())

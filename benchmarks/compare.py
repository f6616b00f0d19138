r"""Compare engines on one machine, in rounds that alternate between them.

    python benchmarks/compare.py \\
        --engine edgewise=edgewise:build/smollm2 \\
        --engine genai=genai:/models/smollm2-int4@genai/bin/python

An engine is NAME=KIND:MODEL[@PYTHON]: the script ``benchmarks/engines/KIND_engine.py`` is run once a
round in a process of its own, with PYTHON or the interpreter that runs this. Every round runs every
engine once, and the first waits until the machine is idle, so that what drifts in its speed meets
all alike; quote the medians and the ratios, never a single figure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ENGINES = Path(__file__).parent / "engines"
IDLE_SHARE = 0.93  # of both cores, over IDLE_SECONDS, before a round counts
IDLE_SECONDS = 2.0
FIGURES = {
    "prefill_tokens_per_second": "prefill, tokens/s",
    "decode_tokens_per_second": "decode, tokens/s",
    "cold_first_token_seconds": "cold first token, s",
    "peak_rss_mib": "peak RSS, MiB",
    "anonymous_rss_mib": "anonymous RSS, MiB",
}


@dataclass(frozen=True)
class Engine:
    """One line of the comparison."""

    name: str
    kind: str
    model: str
    python: str

    @classmethod
    def parse(cls, text: str) -> Engine:
        """Read NAME=KIND:MODEL[@PYTHON]."""
        name, _, rest = text.partition("=")
        kind, _, rest = rest.partition(":")
        model, _, python = rest.partition("@")
        if not (name and model and (ENGINES / f"{kind}_engine.py").exists()):
            kinds = sorted(path.stem.removesuffix("_engine") for path in ENGINES.glob("*_engine.py"))
            raise argparse.ArgumentTypeError(
                f"{text!r} is not NAME=KIND:MODEL[@PYTHON] with KIND one of {', '.join(kinds)}"
            )
        return cls(name, kind, model, python or sys.executable)

    def run(self, arguments: argparse.Namespace) -> dict[str, float]:
        """Run one round and return its figures."""
        script = ENGINES / f"{self.kind}_engine.py"
        sizes = (arguments.prompt, arguments.history, arguments.new, arguments.threads)
        completed = subprocess.run(
            [self.python, str(script), self.model, *map(str, sizes)],
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode:
            raise SystemExit(f"{self.name} failed:\n{completed.stderr}")
        figures: dict[str, float] = json.loads(completed.stdout.splitlines()[-1])
        return figures


def wait_until_idle() -> float:
    """Return the share of idle time once it is high enough."""
    while True:
        before = _times()
        time.sleep(IDLE_SECONDS)
        after = _times()
        share = (after[0] - before[0]) / max(1, after[1] - before[1])
        if share >= IDLE_SHARE:
            return share


def _times() -> tuple[int, int]:
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def table(rounds: dict[str, list[dict[str, float]]]) -> str:
    """Return the medians [min-max] as a Markdown table, with ratios to the last engine."""
    names = list(rounds)
    base = names[-1]
    lines = ["| figure | " + " | ".join(names) + f" | {names[0]} / {base} |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for key, label in FIGURES.items():
        cells = []
        for name in names:
            values = [figures[key] for figures in rounds[name]]
            digits = 2 if max(values) < 10 else 0
            cells.append(
                f"{statistics.median(values):.{digits}f} "
                f"[{min(values):.{digits}f}-{max(values):.{digits}f}]"
            )
        ratios = [
            first[key] / last[key]
            for first, last in zip(rounds[names[0]], rounds[base], strict=True)
        ]
        cells.append(f"{statistics.median(ratios):.2f}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Parse, run the rounds, print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", action="append", type=Engine.parse, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prefill")
    parser.add_argument("--history", type=int, default=64, help="tokens before the decode")
    parser.add_argument("--new", type=int, default=128, help="tokens of the decode")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="where to write every round's figures")
    arguments = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {engine.name: [] for engine in arguments.engine}
    for engine in arguments.engine:  # files into the page cache, not counted
        engine.run(arguments)
    for number in range(arguments.rounds):
        share = wait_until_idle()
        for engine in arguments.engine:
            figures = engine.run(arguments)
            rounds[engine.name].append(figures)
            print(f"round {number + 1} (idle {share:.0%}) {engine.name}: {figures}", file=sys.stderr)
    print(table(rounds))
    if arguments.json:
        arguments.json.write_text(json.dumps(rounds, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

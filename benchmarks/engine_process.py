"""One engine of a comparison, and a process of it for one workload."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from workloads import Task

ENGINES = Path(__file__).parent / "engines"
OWN_KIND = "edgewise"
LONGEST_SECONDS = 300.0


class EngineError(Exception):
    """A workload that an engine could not do."""


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
        if not Path(model).exists():
            raise argparse.ArgumentTypeError(f"there is no {model}, which {name!r} would load")
        return cls(name, kind, model, python or sys.executable)

    @property
    def recipe(self) -> str:
        """What a bundle of ours was quantized by; nothing for another engine's model."""
        if self.kind != OWN_KIND:
            return ""
        return str(json.loads((Path(self.model) / "manifest.json").read_text())["recipe"])

    def run(self, task: Task, threads: int) -> dict[str, float]:
        """Run one workload and return its figures; none where it does not apply.

        Raises:
            EngineError: The process failed, gave no figures or did not end.
        """
        workload = {
            "kind": task.kind,
            "model": self.model,
            "threads": threads,
            "context": task.context,
            **task.options,
            "begin": time.monotonic(),
        }
        command = [self.python, str(ENGINES / f"{self.kind}_engine.py"), json.dumps(workload)]
        code, output, errors = self._output(command)
        if code:
            raise EngineError(f"{self.name} failed in {task.kind!r}:\n{errors[-2000:]}")
        if errors and output.strip() == "{}":
            print(f"{self.name}: {errors.strip()[-500:]}", file=sys.stderr)
        try:
            figures: dict[str, float] = json.loads(output.splitlines()[-1])
        except (IndexError, ValueError) as error:
            raise EngineError(f"{self.name} printed no figures: {output!r}") from error
        return figures

    def _output(self, command: list[str]) -> tuple[int, str, str]:
        """Return exit code, output and errors; whatever happens, no process of it stays."""
        try:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=_environment(),
                start_new_session=True,  # a group: an engine may have started a server
            )
        except OSError as error:
            raise EngineError(f"{self.name}: {error}") from error
        try:
            output, errors = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"{self.name} took more than {LONGEST_SECONDS:.0f} s") from error
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode, output, errors


def _environment() -> dict[str, str]:
    """Let Python keep what it compiles, as an installed program's modules are kept compiled."""
    return {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

"""Lets Optimum trace a checkpoint, in an interpreter that has it.

Optimum needs a release of transformers that may be another than anything else here needs, so it
runs as a program of its own (program.py), best in an environment of its own. Workflow:
`find_interpreter` settles which Python that is, before anything is read; `trace` runs it.

Rules: the program gets a folder of this machine and nothing of ours on its path; it fetches nothing
and runs no code of the checkpoint; what it says when it fails is quoted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.traced.environment import INSTALL_COMMAND, VARIABLE
from edgewise.exporter.traced.tasks import TracingTask

PROGRAM = Path(__file__).with_name("program.py")
GRAPH = "model.onnx"  # what the program writes
ENCODER_GRAPH = "encoder.onnx"  # beside it, of an encoder-decoder
CHECK_SECONDS = 120  # a first import of torch, from a slow disk
QUOTED = 1500  # characters of what the program says last
HOW_TO_INSTALL = (
    f"make an environment for it: `{INSTALL_COMMAND}`, then give "
    f"`--optimum-python optimum/bin/python`, or set {VARIABLE}"
)


class TracingError(EdgewiseError):
    """Optimum is not to be found, or can not trace a checkpoint."""


def find_interpreter(given: str | os.PathLike[str] | None) -> str:
    """Return the Python that has Optimum.

    Args:
        given: An interpreter, or None for the one that the environment variable names, or else the
            one that runs this.

    Raises:
        TracingError: It is no interpreter, or lacks Optimum; the message says how to get both.
    """
    chosen = os.fspath(given) if given is not None else os.environ.get(VARIABLE) or sys.executable
    check = "import importlib.util as u; print(bool(u.find_spec('optimum.exporters.onnx')))"
    try:
        found = subprocess.run(
            [chosen, "-I", "-c", check],
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TracingError(
            f"{chosen} can not be run as a Python interpreter ({error}); {HOW_TO_INSTALL}"
        ) from error
    if found.stdout.strip() != "True":
        raise TracingError(
            f"Optimum with its ONNX exporter is not installed for {chosen}; {HOW_TO_INSTALL}"
        )
    return chosen


def trace(interpreter: str, checkpoint: Path, output: Path, task: TracingTask) -> Path:
    """Trace a checkpoint and return the graph's file; its weights lie beside it, and an encoder.

    Args:
        interpreter: As `find_interpreter` gives it.
        checkpoint: A Hugging Face folder.
        output: An empty folder.
        task: What the graph is for.

    Raises:
        TracingError: Optimum can not trace it; what it said last is quoted.
    """
    arguments = [str(checkpoint.resolve()), str(output.resolve()), task]
    done = subprocess.run(
        [interpreter, "-I", "-c", PROGRAM.read_text(encoding="utf-8"), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=_environment(os.environ),
        text=True,
        errors="replace",
        check=False,
    )
    path = output / GRAPH
    if done.returncode != 0 or not path.is_file():
        last = " ".join(done.stderr.split())[-QUOTED:] or f"it ended with code {done.returncode}"
        raise TracingError(f"Optimum could not trace {checkpoint.name} for {task}: {last}")
    return path


def _environment(present: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for the program: nothing is fetched, nothing of ours is on its path."""
    kept = {name: value for name, value in present.items() if not name.startswith("PYTHON")}
    return {**kept, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

"""What an export writes for each runtime: one file a runtime, found by the runtime's name.

A target builds the graph and its weights, names the files, describes them for the manifest and
loads the result for verification. Rule: a library of a runtime is loaded only with its target.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.plan import ExportPlan
from edgewise.runtime.backends.litert_library import make_importable
from edgewise.runtime.backends.protocol import Backend
from edgewise.runtime.bundle import Bundle

Progress = Callable[[str, int, int], None]
"""Told what happens: the stage, steps done, steps in all."""


class TargetError(EdgewiseError):
    """A library that a target needs is not installed."""


@dataclass(frozen=True)
class GraphNames:
    """What the graph calls its inputs and outputs; ``{layer}`` stands for a layer's index."""

    inputs: tuple[str, ...]  # other than the cache
    past: tuple[str, str]  # keys and values
    present: tuple[str, str]
    outputs: tuple[str, ...] = ("logits",)  # other than the cache


class Target(Protocol):
    """What each module of this package offers."""

    FILES: tuple[tuple[str, str], ...]  # role and name of what `build` writes
    NAMES: GraphNames

    def minimum_versions(self, plan: ExportPlan) -> Mapping[str, str]:
        """Return the first releases with all that the graphs use, by distribution."""
        ...

    def build(
        self, checkpoint: Checkpoint, plan: ExportPlan, folder: Path, progress: Progress
    ) -> None:
        """Write the graph and its weights into a folder."""
        ...

    def texts(self, checkpoint: Checkpoint, plan: ExportPlan) -> Mapping[str, tuple[str, bytes]]:
        """Return further files by role: a name and the content."""
        ...

    def load(self, bundle: Bundle, *, threads: int, capacity: int) -> Backend:
        """Load what was built."""
        ...

    def finish(self, folder: Path) -> None:
        """Remove from the folder what verification alone needed."""
        ...


def find_target(runtime: str) -> Target:
    """Return the target of a runtime that `make_plan` has let through.

    Raises:
        TargetError: A library that it needs is not installed.
    """
    if runtime != "onnx":
        make_importable()
    try:
        return cast(Target, importlib.import_module(f"{__name__}.{runtime}"))
    except ImportError as error:
        if error.name is None or error.name.startswith("edgewise"):
            raise
        extra = {"onnx": "export", "tflite": "litert", "litertlm": "litertlm"}[runtime]
        raise TargetError(
            f"exporting for {runtime} needs {error.name}, which is not installed: "
            f"pip install 'edgewise[{extra}]'"
        ) from error

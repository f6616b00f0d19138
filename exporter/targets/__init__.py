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

import numpy as np
from numpy.typing import NDArray

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.plan import ExportPlan
from edgewise.runtime.backends.litert_library import make_importable
from edgewise.runtime.backends.protocol import (
    EncoderBackend,
    EncoderDecoderBackend,
    VisionLanguageBackend,
)
from edgewise.runtime.bundle import Bundle, CacheUpdate

Progress = Callable[[str, int, int], None]
"""Told what happens: the stage, steps done, steps in all."""


class TargetError(EdgewiseError):
    """A library that a target needs is not installed."""


class Steps(Protocol):
    """A loaded decoder as far as verification uses one; every ``Backend`` is one."""

    @property
    def capacity(self) -> int:
        """Tokens that a slot can hold."""

    def step(
        self, first_slot: int, token_ids: NDArray[np.int64], past_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """See ``Backend``."""

    def close(self) -> None:
        """Give the memory back."""


Loaded = Steps | EncoderBackend | EncoderDecoderBackend | VisionLanguageBackend


@dataclass(frozen=True)
class GraphNames:
    """What the graph with the role "graph" calls its inputs and outputs.

    Attributes:
        inputs: Other than the cache.
        outputs: Other than the cache.
        past: Keys and values, inputs; ``{layer}`` stands for a layer's index. Empty without cache.
        present: Keys and values, outputs.
        update: How present follows from past.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    past: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    update: CacheUpdate = "in_place"


class Target(Protocol):
    """What each module of this package offers."""

    def files(self, plan: ExportPlan) -> tuple[tuple[str, str], ...]:
        """Return role and name of what `build` writes."""
        ...

    def names(self, plan: ExportPlan, checkpoint: Checkpoint) -> GraphNames:
        """Return what the graph calls its inputs and outputs."""
        ...

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

    def load(self, bundle: Bundle, *, threads: int, capacity: int) -> Loaded:
        """Load what was built, by the back end of its family."""
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

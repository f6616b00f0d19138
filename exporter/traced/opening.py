"""From an opened checkpoint to what its traced graph says of the model.

Rule: whatever can be refused is refused before Optimum runs, which takes minutes and gigabytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.onnx_traced import TracedGraph
from edgewise.exporter.planning import check_traceable
from edgewise.exporter.targets import Progress
from edgewise.exporter.targets.traced_onnx import TracedTarget
from edgewise.exporter.traced.model import TracedModel
from edgewise.exporter.traced.pair import TracedPair
from edgewise.exporter.traced.tasks import PAIR_TASK, family_of_task, task_of
from edgewise.exporter.traced.tracing import ENCODER_GRAPH, TracingError, trace
from edgewise.firmware_profiles import Profile


class Tracing(NamedTuple):
    """A traced graph as the pipeline takes it."""

    definition: TracedModel | TracedPair
    target: TracedTarget


@contextmanager
def traced_model(
    checkpoint: Checkpoint,
    profile: Profile,
    interpreter: str,
    *,
    beside: Path,
    runtime: str | None,
    recipe: str | None,
    progress: Progress,
) -> Iterator[Tracing]:
    """Trace a checkpoint; the graph lies in a temporary folder until the block ends.

    Args:
        checkpoint: The opened checkpoint.
        profile: The board.
        interpreter: The Python that has Optimum.
        beside: The bundle to come, beside which there is room for all weights in float32.
        runtime: As `make_plan` takes it.
        recipe: As `make_plan` takes it.
        progress: Told of the stage "optimum".

    Raises:
        EdgewiseError: The checkpoint can not be traced, or not for what was asked for.
    """
    if checkpoint.folder is None:
        raise TracingError(
            f"Optimum reads Hugging Face folders, and {checkpoint.origin.name} is none; give the "
            "folder or the Hub id of the same model"
        )
    task = task_of(checkpoint.config)
    check_traceable(family_of_task(task), profile, runtime=runtime, recipe=recipe)
    with _folder_beside(beside) as folder:
        progress("optimum", 0, 1)
        path = trace(interpreter, checkpoint.folder, folder, task)
        progress("optimum", 1, 1)
        graph = TracedGraph(path)
        if task == PAIR_TASK:
            pair = TracedPair(TracedGraph(path.with_name(ENCODER_GRAPH)), graph)
            yield Tracing(pair, TracedTarget(pair.decoder, pair.encoder))
            return
        yield Tracing(TracedModel(graph, task), TracedTarget(graph))


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Give a folder until the block ends; what the disk refuses is the user's."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=f".{path.name}.traced-", dir=path.parent)
    except OSError as error:
        raise TracingError(
            f"{path.parent} can not be written to ({error.strerror or error}), and Optimum's graph "
            "is kept there for a while; give another folder for the bundle"
        ) from error
    with made as folder:
        yield Path(folder)

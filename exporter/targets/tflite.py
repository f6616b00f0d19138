"""The tflite target: model.tflite, which holds the weights and a graph for each signature."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from edgewise.common.version import VERSION
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.tflite_builder import (
    CACHE_NAMES,
    LAST_TOKEN,
    NEW_NAMES,
    POSITIONS,
    TfliteBuilder,
    signatures,
)
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_operations import TOKEN_IDS
from edgewise.exporter.graph.tflite_weights import (
    LITERT,
    TFLITE_RUNTIME,
    Release,
    WeightStore,
)
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.targets import GraphNames, Progress
from edgewise.runtime.backends.litert_cache_file import FOLDER
from edgewise.runtime.backends.protocol import Backend
from edgewise.runtime.bundle import Bundle

GRAPH_FILE = "model.tflite"
FILES = (("graph", GRAPH_FILE),)
NAMES = GraphNames((TOKEN_IDS, POSITIONS, LAST_TOKEN), CACHE_NAMES, NEW_NAMES)


def oldest_release(plan: ExportPlan) -> Release:
    """Return the runtime that the board has: 32-bit Arm has no wheels of ai-edge-litert."""
    userland = plan.profile.runtime_choice("tflite").userland
    return TFLITE_RUNTIME if userland == "armv7l" else LITERT


def minimum_versions(plan: ExportPlan) -> Mapping[str, str]:
    """Return the first ai-edge-litert that runs the graphs; none where either library does."""
    return {"ai-edge-litert": "2.3"} if oldest_release(plan) == LITERT else {}


def build(checkpoint: Checkpoint, plan: ExportPlan, folder: Path, progress: Progress) -> None:
    """Describe every graph, then write the file while weights stream by."""
    model = TfliteFile()
    release = oldest_release(plan)
    weights = WeightStore(model, plan.recipe, release)
    for signature in signatures(plan.context_length, release):
        builder = TfliteBuilder(model, weights, signature, plan.context_length)
        plan.forward(builder, checkpoint)
        builder.finish()
    model.add_metadata("edgewise", VERSION)
    model.write(folder / GRAPH_FILE, lambda done, total: progress("export", done, total))


def texts(checkpoint: Checkpoint, plan: ExportPlan) -> Mapping[str, tuple[str, bytes]]:
    """Return nothing: the file says all that a program besides ours could read."""
    del checkpoint, plan
    return {}


def load(bundle: Bundle, *, threads: int, capacity: int) -> Backend:
    """Load the graphs by LiteRT, which packs the weights once for all of them, into a file."""
    from edgewise.runtime.backends.litert import LitertBackend  # noqa: PLC0415 - loads LiteRT

    return LitertBackend(bundle, threads=threads, capacity=capacity)


def finish(folder: Path) -> None:
    """Remove what was packed for this machine: it is no part of the bundle."""
    if (folder / FOLDER).exists():
        shutil.rmtree(folder / FOLDER)

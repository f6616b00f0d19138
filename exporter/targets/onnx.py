"""The onnx target: model.onnx, its weights beside it, and what onnxruntime-genai reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgewise.common.files import write_atomically
from edgewise.common.version import VERSION
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.description import sampling_defaults, special_tokens
from edgewise.exporter.genai_config import genai_config
from edgewise.exporter.graph.onnx_builder import (
    PAST_NAMES,
    PRESENT_NAMES,
    OnnxBuilder,
)
from edgewise.exporter.graph.onnx_operations import ATTENTION_MASK, INPUT_IDS
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.targets import GraphNames, Progress
from edgewise.runtime.backends.protocol import Backend
from edgewise.runtime.bundle import Bundle

GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
FILES = (("graph", GRAPH_FILE), ("weights", WEIGHTS_FILE))
NAMES = GraphNames((INPUT_IDS, ATTENTION_MASK), PAST_NAMES, PRESENT_NAMES)


def minimum_versions(plan: ExportPlan) -> Mapping[str, str]:
    """Return the first onnxruntime with every operator form of the graphs.

    Before 1.24 a window reached one token further.
    """
    windows = (window for window in plan.configuration.windows if window is not None)
    has_window = any(window < plan.context_length for window in windows)
    return {"onnxruntime": "1.24" if has_window else "1.23"}


def build(checkpoint: Checkpoint, plan: ExportPlan, folder: Path, progress: Progress) -> None:
    """Write the graph and its weights."""
    seen: set[str] = set()

    def visited(name: str) -> None:
        seen.add(name)
        progress("export", len(seen), len(plan.tensors))

    with WeightFile(folder / WEIGHTS_FILE) as weights:
        builder = OnnxBuilder(weights, plan.recipe, plan.context_length)
        plan.forward(builder, checkpoint, visited)
        model = builder.finish(VERSION)
    write_atomically(folder / GRAPH_FILE, model.SerializeToString())


def texts(checkpoint: Checkpoint, plan: ExportPlan) -> Mapping[str, tuple[str, bytes]]:
    """Return the configuration with which onnxruntime-genai loads the folder."""
    content = genai_config(
        plan,
        special_tokens(checkpoint.tokenizer),
        sampling_defaults(checkpoint.generation),
        GRAPH_FILE,
    )
    return {"genai_config": ("genai_config.json", content)}


def load(bundle: Bundle, *, threads: int, capacity: int) -> Backend:
    """Load the graph by onnxruntime."""
    from edgewise.runtime.backends.onnx import OnnxBackend  # noqa: PLC0415 - loads onnxruntime

    return OnnxBackend(bundle, threads=threads, capacity=capacity)


def finish(folder: Path) -> None:
    """Remove nothing: all that was built is part of the bundle."""
    del folder

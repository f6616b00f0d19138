"""The onnx target: a graph for each pass, their weights in one file, and what genai reads.

| family | files |
|---|---|
| decoder, encoder | model.onnx |
| encoder-decoder | encoder.onnx, decoder.onnx |

All share model.onnx.data: what two graphs read of the checkpoint stands there once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from edgewise.common.files import write_atomically
from edgewise.common.version import VERSION
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.description import sampling_defaults, special_tokens
from edgewise.exporter.genai_config import genai_config
from edgewise.exporter.graph.onnx_builder import (
    ENCODER_MASK,
    PAST_NAMES,
    PRESENT_NAMES,
    OnnxBuilder,
)
from edgewise.exporter.graph.onnx_encoder import TOKEN_TYPES, OnnxEncoderBuilder
from edgewise.exporter.graph.onnx_operations import ATTENTION_MASK, CROSS_NAMES, INPUT_IDS
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.targets import GraphNames, Loaded, Progress
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.manifest import Family

WEIGHTS_FILE = "model.onnx.data"


class GraphFile(NamedTuple):
    """One graph of a model."""

    role: str
    name: str  # of the file
    passing: str  # what it computes, one of the family's passes
    is_encoder: bool


GRAPHS: Mapping[Family, tuple[GraphFile, ...]] = MappingProxyType(
    {
        "decoder": (GraphFile("graph", "model.onnx", "forward", is_encoder=False),),
        "encoder": (GraphFile("graph", "model.onnx", "forward", is_encoder=True),),
        "encoder_decoder": (
            GraphFile("encoder", "encoder.onnx", "encode", is_encoder=True),
            GraphFile("graph", "decoder.onnx", "decode", is_encoder=False),
        ),
    }
)


def files(plan: ExportPlan) -> tuple[tuple[str, str], ...]:
    """Return role and name of the graphs and of their weights."""
    graphs = ((graph.role, graph.name) for graph in GRAPHS[plan.family])
    return (*graphs, ("weights", WEIGHTS_FILE))


def names(plan: ExportPlan, checkpoint: Checkpoint) -> GraphNames:
    """Return what the builders call inputs and outputs."""
    graph = _main_graph(plan)
    outline = plan.outline(graph.passing, checkpoint)
    inputs = [INPUT_IDS, ATTENTION_MASK]
    if graph.is_encoder:
        inputs += [TOKEN_TYPES] if outline.has_token_types else []
        return GraphNames(tuple(inputs), tuple(outline.outputs))
    if outline.cross_layers:
        inputs.append(ENCODER_MASK)
        inputs += [
            name.format(layer=layer) for layer in outline.cross_layers for name in CROSS_NAMES
        ]
    return GraphNames(tuple(inputs), tuple(outline.outputs), PAST_NAMES, PRESENT_NAMES)


def minimum_versions(plan: ExportPlan) -> Mapping[str, str]:
    """Return the first onnxruntime with every operator form of the graphs."""
    del plan
    return {"onnxruntime": "1.23"}


def build(checkpoint: Checkpoint, plan: ExportPlan, folder: Path, progress: Progress) -> None:
    """Write the graphs and their weights."""
    seen: set[str] = set()

    def visited(name: str) -> None:
        seen.add(name)
        progress("export", len(seen), len(plan.tensors))

    with WeightFile(folder / WEIGHTS_FILE) as weights:
        for graph in GRAPHS[plan.family]:
            builder: OnnxBuilder | OnnxEncoderBuilder
            if graph.is_encoder:
                builder = OnnxEncoderBuilder(weights, plan.recipe)
            else:
                builder = OnnxBuilder(weights, plan.recipe, plan.context_length)
            plan.describe(graph.passing, builder, checkpoint, visited)
            model = builder.finish(VERSION)
            write_atomically(folder / graph.name, model.SerializeToString())


def texts(checkpoint: Checkpoint, plan: ExportPlan) -> Mapping[str, tuple[str, bytes]]:
    """Return the configuration with which onnxruntime-genai loads a decoder's folder."""
    if plan.family != "decoder" or plan.labels:
        return {}
    content = genai_config(
        plan,
        special_tokens(checkpoint.tokenizer, plan),
        sampling_defaults(checkpoint.generation),
        _main_graph(plan).name,
    )
    return {"genai_config": ("genai_config.json", content)}


def load(bundle: Bundle, *, threads: int, capacity: int) -> Loaded:
    """Load the graphs by onnxruntime."""
    from edgewise.runtime.backends.onnx import OnnxBackend  # noqa: PLC0415 - loads onnxruntime
    from edgewise.runtime.backends.onnx_encoder import (  # noqa: PLC0415 - loads onnxruntime
        OnnxEncoderBackend,
        OnnxEncoderDecoderBackend,
    )

    match bundle.manifest.family:
        case "encoder":
            return OnnxEncoderBackend.open(bundle, threads=threads, capacity=capacity)
        case "encoder_decoder":
            return OnnxEncoderDecoderBackend.open(bundle, threads=threads, capacity=capacity)
    return OnnxBackend(bundle, threads=threads, capacity=capacity)


def finish(folder: Path) -> None:
    """Remove nothing: all that was built is part of the bundle."""
    del folder


def _main_graph(plan: ExportPlan) -> GraphFile:
    return next(graph for graph in GRAPHS[plan.family] if graph.role == "graph")

"""The onnx target: a graph for each pass, their weights in one file, and what genai reads.

| family | files |
|---|---|
| decoder, encoder | model.onnx |
| encoder-decoder | encoder.onnx, decoder.onnx |
| vision-language | vision.onnx, embedding.onnx, decoder.onnx |

All share model.onnx.data: what two graphs read of the checkpoint stands there once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from edgewise.common.files import write_atomically
from edgewise.common.version import VERSION
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.description import sampling_defaults, special_tokens
from edgewise.exporter.genai_config import genai_config
from edgewise.exporter.graph.onnx_builder import (
    ENCODER_MASK,
    INPUTS_EMBEDS,
    PAST_NAMES,
    PRESENT_NAMES,
    OnnxBuilder,
)
from edgewise.exporter.graph.onnx_encoder import TOKEN_TYPES, OnnxEncoderBuilder
from edgewise.exporter.graph.onnx_image import OnnxImageBuilder
from edgewise.exporter.graph.onnx_lookup import OnnxLookupBuilder
from edgewise.exporter.graph.onnx_operations import (
    ATTENTION_MASK,
    CROSS_NAMES,
    INPUT_IDS,
    OnnxOperations,
)
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.models.decoder import DecoderConfiguration
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.targets import GraphNames, Loaded, Progress
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.engines import engine_factory
from edgewise.runtime.manifest import Family

WEIGHTS_FILE = "model.onnx.data"


class GraphFile(NamedTuple):
    """One graph of a model."""

    role: str
    name: str  # of the file
    passing: str  # what it computes, one of the family's passes
    kind: Literal["decoder", "encoder", "images", "lookup"]


GRAPHS: Mapping[Family, tuple[GraphFile, ...]] = MappingProxyType(
    {
        "decoder": (GraphFile("graph", "model.onnx", "forward", "decoder"),),
        "encoder": (GraphFile("graph", "model.onnx", "forward", "encoder"),),
        "encoder_decoder": (
            GraphFile("encoder", "encoder.onnx", "encode", "encoder"),
            GraphFile("graph", "decoder.onnx", "decode", "decoder"),
        ),
        "vision_language": (
            GraphFile("vision", "vision.onnx", "see", "images"),
            GraphFile("token_embedding", "embedding.onnx", "embed", "lookup"),
            GraphFile("graph", "decoder.onnx", "forward", "decoder"),
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
    takes_embeddings = plan.family == "vision_language"
    inputs = [INPUTS_EMBEDS if takes_embeddings else INPUT_IDS, ATTENTION_MASK]
    if graph.kind == "encoder":
        inputs += [TOKEN_TYPES] if outline.has_token_types else []
        return GraphNames(tuple(inputs), tuple(outline.outputs))
    if outline.cross_layers:
        inputs.append(ENCODER_MASK)
        inputs += [
            name.format(layer=layer) for layer in outline.cross_layers for name in CROSS_NAMES
        ]
    return GraphNames(tuple(inputs), tuple(outline.outputs), PAST_NAMES, PRESENT_NAMES)


def minimum_versions(plan: ExportPlan) -> Mapping[str, str]:
    """Return the first onnxruntime with every operator form of the graphs.

    Before 1.24 a window reached one token further; 1.27 has the first kernel of int8 caches.
    """
    if plan.cache_dtype == "int8":
        return {"onnxruntime": "1.27"}
    c = plan.configuration
    windows = c.windows if isinstance(c, DecoderConfiguration) else ()
    has_window = any(window and window < plan.context_length for window in windows)
    return {"onnxruntime": "1.24" if has_window else "1.23"}


def build(checkpoint: Checkpoint, plan: ExportPlan, folder: Path, progress: Progress) -> None:
    """Write the graphs and their weights."""
    seen: set[str] = set()

    def visited(name: str) -> None:
        seen.add(name)
        progress("export", len(seen), len(plan.tensors))

    with WeightFile(folder / WEIGHTS_FILE) as weights:
        for graph in GRAPHS[plan.family]:
            builder = _builder(graph, plan, weights)
            plan.describe(graph.passing, builder, checkpoint, visited)
            model = builder.finish(VERSION)
            write_atomically(folder / graph.name, model.SerializeToString())


def _builder(graph: GraphFile, plan: ExportPlan, weights: WeightFile) -> OnnxOperations:
    match graph.kind:
        case "encoder":
            return OnnxEncoderBuilder(weights, plan.recipe)
        case "images":
            return OnnxImageBuilder(weights, plan.recipe)
        case "lookup":
            return OnnxLookupBuilder(weights, plan.recipe)
        case "decoder":
            return OnnxBuilder(
                weights,
                plan.recipe,
                plan.context_length,
                takes_embeddings=plan.family == "vision_language",
                cache_dtype=plan.cache_dtype,
                cache_scales=plan.cache_scales,
            )


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
    loaded: Loaded = engine_factory(bundle.manifest)(bundle, threads=threads, capacity=capacity)
    return loaded


def finish(folder: Path) -> None:
    """Remove nothing: all that was built is part of the bundle."""
    del folder


def _main_graph(plan: ExportPlan) -> GraphFile:
    return next(graph for graph in GRAPHS[plan.family] if graph.role == "graph")

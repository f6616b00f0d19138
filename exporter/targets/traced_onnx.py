"""The targets of traced graphs, run by onnxruntime: a graph, or two, with the recipe's weights.

| family | files |
|---|---|
| decoder, encoder | model.onnx |
| encoder-decoder | encoder.onnx, decoder.onnx |

The weights lie in model.onnx.data. These targets are not found by a runtime's name, as the others
are, but made for one model's graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgewise.common.files import write_atomically
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.onnx_rewriting import named_graph, result_names, rewritten_graph
from edgewise.exporter.graph.onnx_traced import TracedGraph
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.targets import GraphNames, Loaded, Progress
from edgewise.runtime.bundle import Bundle, Manifest, decoder_cache
from edgewise.runtime.engines import engine_factory

GRAPH_FILE, WEIGHTS_FILE = "model.onnx", "model.onnx.data"
ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"
REFERENCE_FILE, REFERENCE_CONSTANTS = "reference.onnx", "reference.data"
REFERENCE_ENCODER_FILE = "reference_encoder.onnx"
MINIMUM_VERSIONS = {"onnxruntime": "1.23"}


class TracedTarget:
    """Fulfils ``Target`` for one traced graph."""

    def __init__(self, graph: TracedGraph) -> None:
        """Begin with a graph that lies, with its weights, in a folder that may be written to."""
        self._graph = graph

    def files(self, plan: ExportPlan) -> tuple[tuple[str, str], ...]:
        """See ``Target``."""
        del plan
        return (("graph", GRAPH_FILE), ("weights", WEIGHTS_FILE))

    def names(self, plan: ExportPlan, checkpoint: Checkpoint) -> GraphNames:
        """See ``Target``."""
        del plan, checkpoint
        inputs, outputs = tuple(self._graph.inputs), result_names(self._graph)
        cache = self._graph.cache
        if cache is None:
            return GraphNames(inputs, outputs)
        return GraphNames(inputs, outputs, cache.past, cache.present, update="concatenated")

    def minimum_versions(self, plan: ExportPlan) -> Mapping[str, str]:
        """See ``Target``."""
        del plan
        return MINIMUM_VERSIONS

    def build(
        self, checkpoint: Checkpoint, plan: ExportPlan, folder: Path, progress: Progress
    ) -> None:
        """See ``Target``."""
        del checkpoint
        _build({GRAPH_FILE: self._graph}, plan, folder, progress)

    def texts(self, checkpoint: Checkpoint, plan: ExportPlan) -> Mapping[str, tuple[str, bytes]]:
        """See ``Target``; onnxruntime-genai does not run such graphs."""
        del checkpoint, plan
        return {}

    def load(self, bundle: Bundle, *, threads: int, capacity: int) -> Loaded:
        """See ``Target``."""
        return _loaded(bundle.file("graph"), bundle.manifest, threads, capacity)

    def load_reference(self, bundle: Bundle, threads: int, capacity: int) -> Loaded:
        """Load the graph as it was traced, with the checkpoint's own weights, to compare with.

        Args:
            bundle: What was made of it.
            threads: Threads that compute one call.
            capacity: Tokens of a sequence.
        """
        folder = self._graph.path.parent
        with WeightFile(folder / REFERENCE_CONSTANTS) as constants:
            model = named_graph(self._graph, constants)
        write_atomically(folder / REFERENCE_FILE, model.SerializeToString())
        return _loaded(folder / REFERENCE_FILE, bundle.manifest, threads, capacity)

    def finish(self, folder: Path) -> None:
        """See ``Target``; the reference lies elsewhere."""
        del folder


class TracedPairTarget:
    """Fulfils ``Target`` for the two traced graphs of an encoder-decoder."""

    def __init__(self, encoder: TracedGraph, decoder: TracedGraph) -> None:
        """Begin with graphs that lie, with their weights, in a folder that may be written to."""
        self._encoder = encoder
        self._decoder = decoder

    def files(self, plan: ExportPlan) -> tuple[tuple[str, str], ...]:
        """See ``Target``."""
        del plan
        return (("encoder", ENCODER_FILE), ("graph", DECODER_FILE), ("weights", WEIGHTS_FILE))

    def names(self, plan: ExportPlan, checkpoint: Checkpoint) -> GraphNames:
        """See ``Target``."""
        del plan, checkpoint
        cache = self._decoder.cache
        if cache is None:
            raise TypeError("the decoder of a pair has a cache")
        inputs, outputs = tuple(self._decoder.inputs), result_names(self._decoder)
        return GraphNames(inputs, outputs, cache.past, cache.present, update="concatenated")

    def minimum_versions(self, plan: ExportPlan) -> Mapping[str, str]:
        """See ``Target``."""
        del plan
        return MINIMUM_VERSIONS

    def build(
        self, checkpoint: Checkpoint, plan: ExportPlan, folder: Path, progress: Progress
    ) -> None:
        """See ``Target``."""
        del checkpoint
        graphs = {ENCODER_FILE: self._encoder, DECODER_FILE: self._decoder}
        _build(graphs, plan, folder, progress)

    def texts(self, checkpoint: Checkpoint, plan: ExportPlan) -> Mapping[str, tuple[str, bytes]]:
        """See ``Target``; onnxruntime-genai does not run such graphs."""
        del checkpoint, plan
        return {}

    def load(self, bundle: Bundle, *, threads: int, capacity: int) -> Loaded:
        """See ``Target``."""
        loaded: Loaded = engine_factory(bundle.manifest)(bundle, threads=threads, capacity=capacity)
        return loaded

    def load_reference(self, bundle: Bundle, threads: int, capacity: int) -> Loaded:
        """Load the graphs as they were traced; see ``TracedTarget.load_reference``."""
        from edgewise.runtime.backends.onnx_growing_pair import (  # noqa: PLC0415 - loads onnxruntime
            OnnxGrowingPairBackend,
        )

        manifest = bundle.manifest
        folder = self._decoder.path.parent
        graphs = {REFERENCE_ENCODER_FILE: self._encoder, REFERENCE_FILE: self._decoder}
        with WeightFile(folder / REFERENCE_CONSTANTS) as constants:
            for name, graph in graphs.items():
                model = named_graph(graph, constants)
                write_atomically(folder / name, model.SerializeToString())
        return OnnxGrowingPairBackend(
            folder / REFERENCE_ENCODER_FILE,
            folder / REFERENCE_FILE,
            decoder_cache(manifest),
            threads=threads,
            capacity=capacity,
            source_capacity=manifest.source_length or manifest.context_length,
            vocabulary_size=manifest.vocabulary_size,
        )

    def finish(self, folder: Path) -> None:
        """See ``Target``; the reference lies elsewhere."""
        del folder


def _build(
    graphs: Mapping[str, TracedGraph], plan: ExportPlan, folder: Path, progress: Progress
) -> None:
    """Write graphs by their files' names, and their weights in one file."""
    seen: set[str] = set()

    def visited(name: str) -> None:
        seen.add(name)
        progress("export", len(seen), len(plan.tensors))

    with WeightFile(folder / WEIGHTS_FILE) as weights:
        for name, graph in graphs.items():
            model = rewritten_graph(graph, weights, plan.recipe, visited)
            write_atomically(folder / name, model.SerializeToString())
    progress("export", len(plan.tensors), len(plan.tensors))


def _loaded(graph: Path, manifest: Manifest, threads: int, capacity: int) -> Loaded:
    from edgewise.runtime.backends.onnx_encoder import (  # noqa: PLC0415 - loads onnxruntime
        OnnxEncoderBackend,
    )
    from edgewise.runtime.backends.onnx_growing import (  # noqa: PLC0415 - loads onnxruntime
        OnnxGrowingBackend,
    )

    if manifest.cache is None:
        return OnnxEncoderBackend(graph, threads=threads, capacity=capacity)
    return OnnxGrowingBackend(
        graph,
        manifest.cache,
        threads=threads,
        capacity=capacity,
        vocabulary_size=manifest.vocabulary_size,
    )

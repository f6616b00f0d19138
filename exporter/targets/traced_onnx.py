"""The target of traced graphs: model.onnx with the recipe's weights beside it, run by onnxruntime.

It is not found by a runtime's name, as the others are, but made for one graph.
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
from edgewise.runtime.bundle import Bundle, Manifest

GRAPH_FILE, WEIGHTS_FILE = "model.onnx", "model.onnx.data"
REFERENCE_FILE, REFERENCE_CONSTANTS = "reference.onnx", "reference.data"


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
        return {"onnxruntime": "1.23"}

    def build(
        self, checkpoint: Checkpoint, plan: ExportPlan, folder: Path, progress: Progress
    ) -> None:
        """See ``Target``."""
        del checkpoint
        seen: set[str] = set()

        def visited(name: str) -> None:
            seen.add(name)
            progress("export", len(seen), len(plan.tensors))

        with WeightFile(folder / WEIGHTS_FILE) as weights:
            model = rewritten_graph(self._graph, weights, plan.recipe, visited)
        progress("export", len(plan.tensors), len(plan.tensors))
        write_atomically(folder / GRAPH_FILE, model.SerializeToString())

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

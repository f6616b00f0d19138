"""The target of traced graphs, run by onnxruntime: a graph, or two, with the recipe's weights.

| family | files |
|---|---|
| decoder, encoder | model.onnx |
| encoder-decoder | encoder.onnx, decoder.onnx |

The weights lie in model.onnx.data. This target is not found by a runtime's name, as the others are,
but made for one model's graphs.
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
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.engines import engine_factory

GRAPH_FILE, WEIGHTS_FILE = "model.onnx", "model.onnx.data"
ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"
REFERENCE_PREFIX, REFERENCE_CONSTANTS = "reference_", "reference.data"
MINIMUM_VERSIONS = {"onnxruntime": "1.23"}


class TracedTarget:
    """Fulfils ``Target`` for one traced graph, or for the two of an encoder-decoder."""

    def __init__(self, graph: TracedGraph, encoder: TracedGraph | None = None) -> None:
        """Begin with graphs that lie, with their weights, in a folder that may be written to.

        Args:
            graph: The model's, or its decoder's.
            encoder: That of an encoder-decoder's encoder.
        """
        self._graph = graph
        # By role: the file's name, and what is written to it.
        self._graphs = {"graph": (GRAPH_FILE, graph)}
        if encoder is not None:
            self._graphs = {"encoder": (ENCODER_FILE, encoder), "graph": (DECODER_FILE, graph)}

    def files(self, plan: ExportPlan) -> tuple[tuple[str, str], ...]:
        """See ``Target``."""
        del plan
        graphs = ((role, name) for role, (name, _) in self._graphs.items())
        return (*graphs, ("weights", WEIGHTS_FILE))

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
        seen: set[str] = set()

        def visited(name: str) -> None:
            seen.add(name)
            progress("export", len(seen), len(plan.tensors))

        with WeightFile(folder / WEIGHTS_FILE) as weights:
            for name, graph in self._graphs.values():
                model = rewritten_graph(graph, weights, plan.recipe, visited)
                write_atomically(folder / name, model.SerializeToString())
        progress("export", len(plan.tensors), len(plan.tensors))

    def texts(self, checkpoint: Checkpoint, plan: ExportPlan) -> Mapping[str, tuple[str, bytes]]:
        """See ``Target``; onnxruntime-genai does not run such graphs."""
        del checkpoint, plan
        return {}

    def load(self, bundle: Bundle, *, threads: int, capacity: int) -> Loaded:
        """See ``Target``."""
        loaded: Loaded = engine_factory(bundle.manifest)(bundle, threads=threads, capacity=capacity)
        return loaded

    def load_reference(self, bundle: Bundle, threads: int, capacity: int) -> Loaded:
        """Load what was traced as it is, with the checkpoint's own weights, to compare with.

        Args:
            bundle: What was made of it.
            threads: Threads that compute one call.
            capacity: Tokens of a sequence.
        """
        folder = self._graph.path.parent
        written = {
            role: folder / (REFERENCE_PREFIX + name) for role, (name, _) in self._graphs.items()
        }
        with WeightFile(folder / REFERENCE_CONSTANTS) as constants:
            for role, (_, graph) in self._graphs.items():
                model = named_graph(graph, constants)
                write_atomically(written[role], model.SerializeToString())
        loaded: Loaded = engine_factory(bundle.manifest)(
            bundle, threads=threads, capacity=capacity, **written
        )
        return loaded

    def finish(self, folder: Path) -> None:
        """See ``Target``; the reference lies elsewhere."""
        del folder

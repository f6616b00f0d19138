"""Runs the graphs of a .tflite by ``Interpreter``, which every release of either library has."""

from __future__ import annotations

from types import ModuleType
from typing import cast

from edgewise.runtime.backends.litert_feed import (
    Array,
    CacheNames,
    Feed,
    new_tokens_name,
    verifies,
)
from edgewise.runtime.backends.litert_graphs import Graph
from edgewise.runtime.backends.litert_notes import without_notes
from edgewise.runtime.backends.page_release import lazy_zeros, release_pages
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.manifest import decoder_cache


class InterpreterEngine:
    """Runs graphs by ``Interpreter``; each graph has cache tensors of its own.

    A slot's keys and values are kept here, and what a graph does not have yet is copied into it
    before it runs.
    """

    def __init__(self, bundle: Bundle, *, threads: int, slots: int, capacity: int) -> None:
        """Load the model.

        Raises:
            ImportError: No library is installed.
            ValueError: The library can not load the model.
        """
        library = interpreter_library()
        layout = decoder_cache(bundle.manifest)
        self._names = CacheNames.of(layout)
        with without_notes():
            self._interpreter = library.Interpreter(
                model_path=str(bundle.file("graph")), num_threads=threads
            )
        self._wrapper = self._interpreter._interpreter
        self._signatures = self._wrapper.GetSignatureDefs()
        self.graphs: tuple[Graph, ...] = tuple(self._graph(name) for name in self._signatures)
        shape = (slots, len(self._names.cache), layout.key_value_heads, capacity, layout.head_size)
        self._store = lazy_zeros(shape, layout.dtype)
        self._loaded: dict[str, _LoadedGraph] = {}

    def run(self, slot: int, graph: Graph, new_tokens: Array, past: int) -> Array:
        """See ``Engine``."""
        if graph.name not in self._loaded:
            self._loaded[graph.name] = self._prepare(graph)
        loaded = self._loaded[graph.name]
        for other in self._loaded.values():
            other.forget(slot, past)
        loaded.copy_past(slot, list(self._store[slot]), past)
        loaded.feed.write(new_tokens, past)
        self._wrapper.Invoke(loaded.subgraph)
        loaded.feed.append_to(list(self._store[slot]), past, len(new_tokens))
        return loaded.feed.logits

    def slot_bytes(self, tokens: int) -> int:
        """See ``Backend``."""
        _, caches, heads, capacity, size = self._store.shape
        return int(caches * heads * min(tokens, capacity) * size * self._store.itemsize)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See ``Backend``."""
        self._store[target][:, :, :length] = self._store[source][:, :, :length]
        for loaded in self._loaded.values():
            loaded.forget(target, 0)

    def read_cache(self, slot: int, length: int) -> Array:
        """See ``Backend``."""
        copied: Array = self._store[slot][:, :, :length].copy()
        return copied

    def write_cache(self, slot: int, cache: Array) -> None:
        """See ``Backend``."""
        self._store[slot][:, :, : cache.shape[2]] = cache
        for loaded in self._loaded.values():
            loaded.forget(slot, 0)

    def release(self, slot: int) -> None:
        """See ``Backend``."""
        release_pages(self._store[slot])
        for loaded in self._loaded.values():
            loaded.forget(slot, 0)

    def close(self) -> None:
        """See ``Engine``."""
        self._loaded.clear()
        self._wrapper = self._interpreter = None
        self._store = self._store[:0]

    def _graph(self, name: str) -> Graph:
        inputs = self._signatures[name]["inputs"]
        subgraph = self._wrapper.GetSubgraphIndexFromSignature(name)
        tokens = int(self._wrapper.TensorSize(inputs[new_tokens_name(inputs)], subgraph)[0])
        first = inputs.get(self._names.cache[0])
        cache = 0 if first is None else int(self._wrapper.TensorSize(first, subgraph)[2])
        return Graph(name, tokens, cache, verifies(inputs, tokens))

    def _prepare(self, graph: Graph) -> _LoadedGraph:
        subgraph = self._wrapper.GetSubgraphIndexFromSignature(graph.name)
        with without_notes():
            self._wrapper.AllocateTensors(subgraph)
        signature = self._signatures[graph.name]

        def view(index: int) -> Array:
            array: Array = self._wrapper.tensor(self._interpreter, index, subgraph)
            return array

        inputs = {name: view(index) for name, index in signature["inputs"].items()}
        outputs = {name: view(index) for name, index in signature["outputs"].items()}
        caches = [inputs[name][0] for name in self._names.cache if name in inputs]
        for cache in caches:
            cache[:] = 0  # what is masked must be finite all the same
        return _LoadedGraph(subgraph, Feed(inputs, outputs, self._names), caches)


class _LoadedGraph:
    """A graph of the interpreter, and which positions of which slot its cache tensors hold."""

    def __init__(self, subgraph: int, feed: Feed, caches: list[Array]) -> None:
        self.subgraph = subgraph
        self.feed = feed
        self._caches = caches
        self._slot, self._positions = 0, 0

    def forget(self, slot: int, past: int) -> None:
        """Note that a slot's positions from ``past`` on are about to be written anew."""
        if slot == self._slot:
            self._positions = min(self._positions, past)

    def copy_past(self, slot: int, store: list[Array], past: int) -> None:
        """Bring the cache tensors up to a slot's past; ``store`` holds [heads, S, size] each."""
        if slot != self._slot:
            self._slot, self._positions = slot, 0
        held = self._positions
        for cache, kept in zip(self._caches, store if self._caches else [], strict=True):
            cache[:, held:past] = kept[:, held:past]
        self._positions = past


def interpreter_library() -> ModuleType:
    """Import the module with ``Interpreter`` of whichever library is installed."""
    try:
        from ai_edge_litert import interpreter  # noqa: PLC0415  # either library will do
    except ImportError:
        from tflite_runtime import interpreter  # noqa: PLC0415  # either library will do
    return cast(ModuleType, interpreter)

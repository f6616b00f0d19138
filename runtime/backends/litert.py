"""The LiteRT back end: the one module that imports ai_edge_litert or tflite_runtime.

Workflow: a step runs each row's tokens through the graphs that fit (litert_graphs.py). A graph
reads the cache and returns new keys and values, which are written where they belong. Two engines
can run the graphs: ``CompiledModel`` of ai-edge-litert, whose packed weights lie in a file
(litert_cache_file.py) and whose cache buffers are bound without a copy; and ``Interpreter``, which
every release of either library has, and which is taken where the first can not load.

Rules: rows are computed one after the other, for the graphs hold one sequence. A slot's buffers
have the size of the graph in use; they grow and shrink with the conversation, which copies what is
filled. The logits that a step returns are valid until the next.
"""

from __future__ import annotations

import atexit
import ctypes
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.litert_cache_file import WeightCacheFile
from edgewise.runtime.backends.litert_graphs import Graph, bucket_for, next_graph
from edgewise.runtime.backends.litert_library import make_importable
from edgewise.runtime.backends.litert_notes import drop_notes, without_notes
from edgewise.runtime.backends.protocol import BackendError
from edgewise.runtime.bundle import Bundle, CacheLayout, decoder_cache

TOKEN_IDS = "token_ids"  # noqa: S105  # a name, no secret
POSITIONS = "positions"
LAST_TOKEN = "last_token"  # noqa: S105  # a name, no secret
LOGITS = "logits"


Array = NDArray[Any]


class LitertBackend:
    """Fulfils ``Backend`` with LiteRT."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        slots: int = 1,
        capacity: int,
        keep_packed: bool = True,
    ) -> None:
        """Load the graphs and lay out the cache.

        Args:
            bundle: An opened bundle with ``runtime`` "tflite".
            threads: Threads that compute one step.
            slots: Sequences that can be held at once.
            capacity: Tokens that each slot can hold.
            keep_packed: Keep packed weights in a file for later loads.

        Raises:
            BackendError: Neither engine can load the graphs.
        """
        self.slots = slots
        self.capacity = capacity
        self.vocabulary_size = bundle.manifest.vocabulary_size
        self._engine = load_engine(
            bundle, threads=threads, slots=slots, capacity=capacity, keep_packed=keep_packed
        )
        self._logits = np.empty((slots, self.vocabulary_size), np.float32)

    def step(
        self,
        first_slot: int,
        token_ids: NDArray[np.int64],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """See ``Backend``."""
        rows, new_tokens = token_ids.shape
        for row in range(rows):
            past = int(past_lengths[row])
            left = token_ids[row, : new_tokens if counts is None else int(counts[row])]
            while len(left):
                graph = next_graph(self._engine.graphs, past, len(left))
                chunk = left[: graph.tokens]
                logits = self._engine.run(first_slot + row, graph, chunk, past)
                past += len(chunk)
                left = left[len(chunk) :]
            self._logits[row] = logits
        return self._logits[:rows]

    def close(self) -> None:
        """Give the engine's and the cache's memory back."""
        self._engine.close()


class Engine(Protocol):
    """What runs the graphs and owns the cache."""

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The model's graphs."""
        ...

    def run(self, slot: int, graph: Graph, token_ids: Array, past: int) -> Array:
        """Append up to ``graph.tokens`` ids [T] to a slot; return the last one's logits [V]."""
        ...

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        ...


class _Names(NamedTuple):
    """Names of cache inputs and of what is new, keys and values of all layers alternating."""

    cache: tuple[str, ...]
    new: tuple[str, ...]

    @classmethod
    def of(cls, layout: CacheLayout) -> _Names:
        layers = range(layout.layers)
        cache = (layout.past_key_name, layout.past_value_name)
        new = (layout.present_key_name, layout.present_value_name)
        return cls(
            tuple(name.format(layer=layer) for layer in layers for name in cache),
            tuple(name.format(layer=layer) for layer in layers for name in new),
        )


class _Feed:
    """The inputs beside the cache, and the results, of all graphs of one number of tokens."""

    def __init__(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], names: _Names):
        self._inputs = inputs
        self._logits = outputs[LOGITS].reshape(-1)
        self._new = [outputs[name][0] for name in names.new]  # [heads, T, size] each

    def write(self, token_ids: Array, past: int) -> None:
        """Give ids, padded by the last one, and what follows from their number."""
        count = len(token_ids)
        ids = self._inputs[TOKEN_IDS]
        ids[:count] = token_ids
        ids[count:] = token_ids[-1]
        self._inputs[POSITIONS][:] = np.arange(past, past + len(ids))
        if LAST_TOKEN in self._inputs:
            self._inputs[LAST_TOKEN][0] = count - 1

    def append_to(self, caches: list[Array], past: int, count: int) -> None:
        """Copy the new keys and values behind the past: caches are [heads, S, size] each."""
        for cache, new in zip(caches, self._new, strict=True):
            cache[:, past : past + count] = new[:, :count]

    @property
    def logits(self) -> Array:
        """The last token's, [V]; valid until the next run."""
        return self._logits


class CompiledEngine:
    """Runs graphs by ``CompiledModel``."""

    def __init__(
        self, bundle: Bundle, *, threads: int, slots: int, keep_packed: bool = True
    ) -> None:
        """Load the model, packing its weights into the cache file if there is none yet.

        Raises:
            ImportError: This release of the library is too old, or another library is installed.
            RuntimeError: The library can not load the model.
        """
        from ai_edge_litert import compiled_model  # noqa: PLC0415  # may be another library

        self._library: ModuleType = compiled_model
        self._model: Any = self._load(bundle.file("graph"), threads, keep_packed=keep_packed)
        self._names = _Names.of(decoder_cache(bundle.manifest))
        self._indices: dict[str, int] = {}
        graphs = []
        for name in self._model.get_signature_list():
            self._indices[name] = self._model.get_signature_index(name)
            shapes = self._model.get_input_tensor_details(name)
            cache = shapes.get(self._names.cache[0])
            positions = int(cache["shape"][2]) if cache is not None else 0
            graphs.append(Graph(name, int(shapes[TOKEN_IDS]["shape"][0]), positions))
        self.graphs: tuple[Graph, ...] = tuple(graphs)
        self._feeds: dict[int, tuple[_Feed, dict[str, Any], dict[str, Any]]] = {}
        self._caches: list[_BoundCache | None] = [None] * slots
        self._calls: dict[tuple[int, str], tuple[list[Any], list[Any]]] = {}

    def run(self, slot: int, graph: Graph, token_ids: Array, past: int) -> Array:
        """See ``Engine``."""
        count = len(token_ids)
        feed = self._feed(graph)
        if graph.cache:
            self._resize(slot, graph.cache, past)
        feed.write(token_ids, past)
        inputs, outputs = self._call(slot, graph)
        self._model.run_by_index(self._indices[graph.name], inputs, outputs)
        cache = self._caches[slot]
        if cache is None or cache.positions < past + count:
            cache = self._resize(slot, bucket_for(self.graphs, past + count), past)
        feed.append_to(cache.views, past, count)
        return feed.logits

    def close(self) -> None:
        """See ``Engine``."""
        with without_notes():
            self._calls.clear()
            self._feeds.clear()
            self._caches.clear()
            self._model = None

    def _load(self, path: Path, threads: int, *, keep_packed: bool) -> Any:
        if not keep_packed:
            return self._open(path, threads, None)
        cache_file = WeightCacheFile(path, metadata.version("ai-edge-litert"))
        cached = cache_file.usable()
        if cached is not None:
            return self._open(path, threads, cached)
        building = cache_file.begin()
        try:
            model = self._open(path, threads, building)
        except Exception:
            cache_file.abandon(building)
            raise
        if building is not None:
            cache_file.finish(building)
        return model

    def _open(self, path: Path, threads: int, cache: Path | None) -> Any:
        library = self._library
        cpu = library.CpuOptions(
            num_threads=threads, xnnpack_weight_cache_path="" if cache is None else str(cache)
        )
        options = library.Options(
            hardware_accelerators=library.HardwareAccelerator.CPU, cpu_options=cpu
        )
        with without_notes():
            model = library.CompiledModel.from_file(str(path), options=options)
            # The first question about a buffer makes the library's own environment, which it ends
            # with the process: both write notes.
            name = next(iter(model.get_signature_list()))
            model.create_input_buffer_by_name(name, TOKEN_IDS).get_tensor_details()
        atexit.register(drop_notes)
        return model

    def _feed(self, graph: Graph) -> _Feed:
        if graph.tokens not in self._feeds:
            details = self._model.get_input_tensor_details(graph.name)
            results = self._model.get_output_tensor_details(graph.name)
            inputs = {
                name: self._model.create_input_buffer_by_name(graph.name, name)
                for name in details.keys() - set(self._names.cache)
            }
            outputs = {
                name: self._model.create_output_buffer_by_name(graph.name, name) for name in results
            }
            feed = _Feed(
                {name: _view(buffer, details[name]) for name, buffer in inputs.items()},
                {name: _view(buffer, results[name]) for name, buffer in outputs.items()},
                self._names,
            )
            self._feeds[graph.tokens] = (feed, inputs, outputs)
        return self._feeds[graph.tokens][0]

    def _resize(self, slot: int, positions: int, past: int) -> _BoundCache:
        """Give a slot's cache this many positions, keeping the past."""
        old = self._caches[slot]
        if old is not None and old.positions == positions:
            return old
        graph = next(graph for graph in self.graphs if graph.cache == positions)
        details = self._model.get_input_tensor_details(graph.name)
        buffers = [
            self._model.create_input_buffer_by_name(graph.name, name) for name in self._names.cache
        ]
        views = [
            _view(buffer, details[name])[0]
            for name, buffer in zip(self._names.cache, buffers, strict=True)
        ]
        new = _BoundCache(positions, buffers, views)
        if old is not None:
            for source, target in zip(old.views, new.views, strict=True):
                target[:, :past] = source[:, :past]
        self._caches[slot] = new
        for key in [key for key in self._calls if key[0] == slot]:
            del self._calls[key]
        return new

    def _call(self, slot: int, graph: Graph) -> tuple[list[Any], list[Any]]:
        """Return the buffers of a call in the order of the signature; made once."""
        key = (slot, graph.name)
        if key not in self._calls:
            _, inputs, outputs = self._feeds[graph.tokens]
            cache = self._caches[slot]
            bound = dict(inputs)
            if graph.cache and cache is not None:
                bound.update(zip(self._names.cache, cache.buffers, strict=True))
            signature = self._model.get_signature_list()[graph.name]
            self._calls[key] = (
                [bound[name] for name in signature["inputs"]],
                [outputs[name] for name in signature["outputs"]],
            )
        return self._calls[key]


class _BoundCache:
    """A slot's keys and values in buffers of the engine, and views of them."""

    def __init__(self, positions: int, buffers: list[Any], views: list[Array]) -> None:
        self.positions = positions
        self.buffers = buffers
        self.views = views  # [heads, S, size] each
        for view in self.views:
            view[:] = 0  # what is masked must be finite all the same


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
        self._names = _Names.of(layout)
        with without_notes():
            self._interpreter = library.Interpreter(
                model_path=str(bundle.file("graph")), num_threads=threads
            )
        self._wrapper = self._interpreter._interpreter
        self._signatures = self._wrapper.GetSignatureDefs()
        self.graphs: tuple[Graph, ...] = tuple(self._graph(name) for name in self._signatures)
        shape = (slots, len(self._names.cache), layout.key_value_heads, capacity, layout.head_size)
        self._store = np.zeros(shape, np.float32)
        self._loaded: dict[str, _LoadedGraph] = {}

    def run(self, slot: int, graph: Graph, token_ids: Array, past: int) -> Array:
        """See ``Engine``."""
        if graph.name not in self._loaded:
            self._loaded[graph.name] = self._prepare(graph)
        loaded = self._loaded[graph.name]
        for other in self._loaded.values():
            other.forget(slot, past)
        loaded.copy_past(slot, list(self._store[slot]), past)
        loaded.feed.write(token_ids, past)
        self._wrapper.Invoke(loaded.subgraph)
        loaded.feed.append_to(list(self._store[slot]), past, len(token_ids))
        return loaded.feed.logits

    def close(self) -> None:
        """See ``Engine``."""
        self._loaded.clear()
        self._wrapper = self._interpreter = None
        self._store = self._store[:0]

    def _graph(self, name: str) -> Graph:
        inputs = self._signatures[name]["inputs"]
        subgraph = self._wrapper.GetSubgraphIndexFromSignature(name)
        tokens = int(self._wrapper.TensorSize(inputs[TOKEN_IDS], subgraph)[0])
        first = inputs.get(self._names.cache[0])
        cache = 0 if first is None else int(self._wrapper.TensorSize(first, subgraph)[2])
        return Graph(name, tokens, cache)

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
        return _LoadedGraph(subgraph, _Feed(inputs, outputs, self._names), caches)


class _LoadedGraph:
    """A graph of the interpreter, and which positions of which slot its cache tensors hold."""

    def __init__(self, subgraph: int, feed: _Feed, caches: list[Array]) -> None:
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


def load_engine(
    bundle: Bundle, *, threads: int, slots: int, capacity: int, keep_packed: bool
) -> Engine:
    """Return the first engine that can load a bundle.

    Raises:
        BackendError: None can; the message has the cause of each.
    """
    causes = []
    make_importable()
    try:
        return CompiledEngine(bundle, threads=threads, slots=slots, keep_packed=keep_packed)
    except (ImportError, AttributeError, metadata.PackageNotFoundError, RuntimeError) as error:
        causes.append(f"CompiledModel: {error}")
    try:
        return InterpreterEngine(bundle, threads=threads, slots=slots, capacity=capacity)
    except (ImportError, AttributeError, RuntimeError, ValueError) as error:
        causes.append(f"Interpreter: {error}")
    minimum = bundle.manifest.minimum_versions.get("ai-edge-litert", "2.3")
    raise BackendError(
        f"LiteRT can not load {bundle.file('graph').name} of {bundle.path.name}: "
        f"{'; '.join(causes)}. Install a newer one: pip install 'ai-edge-litert>={minimum}'"
    )


def interpreter_library() -> ModuleType:
    """Import the module with ``Interpreter`` of whichever library is installed."""
    try:
        from ai_edge_litert import interpreter  # noqa: PLC0415  # either library will do
    except ImportError:
        from tflite_runtime import interpreter  # noqa: PLC0415  # either library will do
    return cast(ModuleType, interpreter)


def _view(buffer: Any, details: Mapping[str, Any]) -> Array:
    """Return the memory of a host TensorBuffer as an array of the tensor's type and shape.

    The wheel's Python classes only copy; the C interface gives the address, which stays the same
    as long as the buffer lives. The array keeps the buffer alive.
    """
    dtype = np.dtype(details["dtype"])
    shape = tuple(int(size) for size in details["shape"])
    handle = _capsule_pointer(buffer.capsule, b"LiteRtTensorBuffer")
    library = _c_library()
    address = ctypes.c_void_p()
    status = library.LiteRtGetTensorBufferHostMemory(handle, ctypes.byref(address))
    if status or not address.value:
        raise RuntimeError("a tensor buffer of LiteRT has no host memory")
    size = int(np.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_uint8 * size).from_address(address.value)
    memory.owner = buffer
    return np.frombuffer(memory, dtype).reshape(shape)


def _capsule_pointer(capsule: object, name: bytes) -> int:
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype = ctypes.c_void_p
    pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return int(pointer_of(capsule, name))


def _c_library() -> ctypes.CDLL:
    import ai_edge_litert  # noqa: PLC0415  # may be another library

    folder = Path(str(ai_edge_litert.__file__)).parent
    name = {"darwin": "libLiteRt.dylib", "win32": "libLiteRt.dll"}.get(sys.platform, "libLiteRt.so")
    library = ctypes.CDLL(str(folder / name))
    library.LiteRtGetTensorBufferHostMemory.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_void_p),
    ]
    return library

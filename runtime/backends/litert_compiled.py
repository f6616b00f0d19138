"""Runs the graphs of a .tflite by ``CompiledModel`` of ai-edge-litert.

Packed weights lie in a file (litert_compiled_model.py); cache buffers are bound without a copy. The
buffers of a slot have the size of the graph in use: they grow and shrink with the conversation,
which copies what is filled. Only the pages that were filled take memory: all others are read as one
page of zeros, which the system keeps for that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgewise.runtime.backends.litert_compiled_model import buffer_view, load_compiled_model
from edgewise.runtime.backends.litert_feed import (
    Array,
    CacheNames,
    Feed,
    new_tokens_name,
    verifies,
)
from edgewise.runtime.backends.litert_graphs import Graph, bucket_for
from edgewise.runtime.backends.litert_notes import without_notes
from edgewise.runtime.backends.page_release import release_pages
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.manifest import decoder_cache


class CompiledEngine:
    """Runs graphs by ``CompiledModel``."""

    def __init__(
        self, bundle: Bundle, *, threads: int, slots: int, keep_packed: bool = True
    ) -> None:
        """Load the model, packing its weights into the cache file if there is none yet.

        Raises:
            LOADING_ERRORS: As `load_compiled_model`.
        """
        self._model: Any = load_compiled_model(
            bundle.file("graph"), threads, keep_packed=keep_packed
        )
        layout = decoder_cache(bundle.manifest)
        self._names = CacheNames.of(layout)
        head_bytes = layout.head_size * np.dtype(layout.dtype).itemsize
        self._position_bytes = len(self._names.cache) * layout.key_value_heads * head_bytes
        self._indices: dict[str, int] = {}
        graphs = []
        for name in self._model.get_signature_list():
            self._indices[name] = self._model.get_signature_index(name)
            shapes = self._model.get_input_tensor_details(name)
            cache = shapes.get(self._names.cache[0])
            positions = int(cache["shape"][2]) if cache is not None else 0
            tokens = int(shapes[new_tokens_name(shapes)]["shape"][0])
            graphs.append(Graph(name, tokens, positions, verifies(shapes, tokens)))
        self.graphs: tuple[Graph, ...] = tuple(graphs)
        self._feeds: dict[tuple[int, bool], tuple[Feed, dict[str, Any], dict[str, Any]]] = {}
        self._caches: list[_BoundCache | None] = [None] * slots
        self._calls: dict[tuple[int, str], tuple[list[Any], list[Any]]] = {}

    def run(self, slot: int, graph: Graph, new_tokens: Array, past: int) -> Array:
        """See ``Engine``."""
        count = len(new_tokens)
        feed = self._feed(graph)
        if graph.cache:
            self._resize(slot, graph.cache, past)
        feed.write(new_tokens, past)
        inputs, outputs = self._call(slot, graph)
        self._model.run_by_index(self._indices[graph.name], inputs, outputs)
        cache = self._caches[slot]
        if cache is None or cache.positions < past + count:
            cache = self._resize(slot, bucket_for(self.graphs, past + count), past)
        feed.append_to(cache.views, past, count)
        return feed.logits

    def slot_bytes(self, tokens: int) -> int:
        """See ``Backend``: the buffers of the smallest cache that holds the tokens."""
        return bucket_for(self.graphs, tokens) * self._position_bytes

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See ``Backend``."""
        copied = self._resize(target, bucket_for(self.graphs, length), 0)
        held = self._caches[source]
        if held is None:
            raise ValueError(f"slot {source} holds nothing")
        for old, new in zip(held.views, copied.views, strict=True):
            new[:, :length] = old[:, :length]

    def read_cache(self, slot: int, length: int) -> Array:
        """See ``Backend``."""
        held = self._caches[slot]
        if held is None:
            raise ValueError(f"slot {slot} holds nothing")
        return np.stack([view[:, :length] for view in held.views])

    def write_cache(self, slot: int, cache: Array) -> None:
        """See ``Backend``."""
        length = cache.shape[2]
        held = self._resize(slot, bucket_for(self.graphs, length), 0)
        for view, given in zip(held.views, cache, strict=True):
            view[:, :length] = given

    def release(self, slot: int) -> None:
        """See ``Backend``."""
        cache = self._caches[slot]
        if cache is not None:  # its buffers go back to the allocator, which keeps pages
            cache.release_pages()
        self._caches[slot] = None
        self._drop_calls(slot)

    def close(self) -> None:
        """See ``Engine``."""
        with without_notes():
            self._calls.clear()
            self._feeds.clear()
            self._caches.clear()
            self._model = None

    def _feed(self, graph: Graph) -> Feed:
        key = graph.tokens, graph.verifies
        if key not in self._feeds:
            details = self._model.get_input_tensor_details(graph.name)
            results = self._model.get_output_tensor_details(graph.name)
            inputs = {
                name: self._model.create_input_buffer_by_name(graph.name, name)
                for name in details.keys() - set(self._names.cache)
            }
            outputs = {
                name: self._model.create_output_buffer_by_name(graph.name, name) for name in results
            }
            feed = Feed(
                {name: buffer_view(buffer, details[name]) for name, buffer in inputs.items()},
                {name: buffer_view(buffer, results[name]) for name, buffer in outputs.items()},
                self._names,
            )
            self._feeds[key] = (feed, inputs, outputs)
        return self._feeds[key][0]

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
            buffer_view(buffer, details[name])[0]
            for name, buffer in zip(self._names.cache, buffers, strict=True)
        ]
        new = _BoundCache(positions, buffers, views)
        if old is not None:
            for source, target in zip(old.views, new.views, strict=True):
                target[:, :past] = source[:, :past]
                release_pages(source)  # one by one, so that not both whole caches take memory
        self._caches[slot] = new
        self._drop_calls(slot)
        return new

    def _drop_calls(self, slot: int) -> None:
        """Forget the calls that are bound to a slot's buffers."""
        for key in [key for key in self._calls if key[0] == slot]:
            del self._calls[key]

    def _call(self, slot: int, graph: Graph) -> tuple[list[Any], list[Any]]:
        """Return the buffers of a call in the order of the signature; made once."""
        key = (slot, graph.name)
        if key not in self._calls:
            _, inputs, outputs = self._feeds[graph.tokens, graph.verifies]
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
        self.release_pages()  # what is masked must be finite all the same

    def release_pages(self) -> None:
        """Zero everything and give its memory back."""
        for view in self.views:
            release_pages(view)

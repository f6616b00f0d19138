"""The LiteRT back end; the ``litert_*`` modules alone import ai_edge_litert or tflite_runtime.

Workflow: a step runs each row's tokens through the graphs that fit (litert_graphs.py). A graph
reads the cache and returns new keys and values, which are written where they belong. Two engines
can run the graphs: ``CompiledModel`` (litert_compiled.py), and ``Interpreter``
(litert_interpreter.py), which is taken where the first can not load.

Rules: rows are computed one after the other, for the graphs hold one sequence. The logits that a
step returns are valid until the next.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.litert_compiled import CompiledEngine
from edgewise.runtime.backends.litert_compiled_model import LOADING_ERRORS
from edgewise.runtime.backends.litert_feed import Array
from edgewise.runtime.backends.litert_graphs import Graph, next_graph
from edgewise.runtime.backends.litert_interpreter import InterpreterEngine
from edgewise.runtime.backends.litert_library import make_importable
from edgewise.runtime.backends.protocol import BackendError
from edgewise.runtime.bundle import Bundle, logits_size


class LitertBackend:
    """Fulfils ``VerifyingBackend`` with LiteRT."""

    rows_share_work = False

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
        self.vocabulary_size = logits_size(bundle.manifest)
        self._engine = load_engine(
            bundle, threads=threads, slots=slots, capacity=capacity, keep_packed=keep_packed
        )
        graphs = self._engine.graphs
        self._graphs = [graph for graph in graphs if not graph.verifies]
        self._verifying = [graph for graph in graphs if graph.verifies]
        self._logits = np.empty((slots, self.vocabulary_size), np.float32)

    def step(
        self,
        first_slot: int,
        token_ids: NDArray[np.int64],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """See ``Backend``."""
        return self._append(first_slot, token_ids, past_lengths, counts)

    def _append(
        self,
        first_slot: int,
        new: Array,
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None,
    ) -> NDArray[np.float32]:
        """Do as `step` with ids [B, T], or with what else the graphs take, [B, T, ...]."""
        rows, new_tokens = new.shape[:2]
        for row in range(rows):
            past = int(past_lengths[row])
            left = new[row, : new_tokens if counts is None else int(counts[row])]
            while len(left):
                graph = next_graph(self._graphs, past, len(left))
                chunk = left[: graph.tokens]
                logits = self._engine.run(first_slot + row, graph, chunk, past)
                past += len(chunk)
                left = left[len(chunk) :]
            self._logits[row] = logits
        return self._logits[:rows]

    @property
    def verifies(self) -> bool:
        """See ``VerifyingBackend``; only bundles that were exported with drafts do."""
        return bool(self._verifying)

    def verify(
        self, slot: int, token_ids: NDArray[np.int64], past_length: int
    ) -> NDArray[np.float32]:
        """See ``VerifyingBackend``."""
        logits = np.empty((len(token_ids), self.vocabulary_size), np.float32)
        done = 0
        while done < len(token_ids):
            past = past_length + done
            graph = next_graph(self._verifying, past, len(token_ids) - done)
            chunk = token_ids[done : done + graph.tokens]
            end = done + len(chunk)
            logits[done:end] = self._engine.run(slot, graph, chunk, past)[: len(chunk)]
            done = end
        return logits

    def slot_bytes(self, tokens: int) -> int:
        """See ``Backend``."""
        return self._engine.slot_bytes(tokens)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See ``Backend``."""
        self._engine.copy_prefix(source, target, length)

    def read_cache(self, slot: int, length: int) -> Array:
        """See ``Backend``."""
        return self._engine.read_cache(slot, length)

    def write_cache(self, slot: int, cache: Array) -> None:
        """See ``Backend``."""
        self._engine.write_cache(slot, cache)

    def release(self, slot: int) -> None:
        """See ``Backend``."""
        self._engine.release(slot)

    def close(self) -> None:
        """Give the engine's and the cache's memory back."""
        self._engine.close()


class Engine(Protocol):
    """What runs the graphs and owns the cache."""

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The model's graphs."""
        ...

    def run(self, slot: int, graph: Graph, new_tokens: Array, past: int) -> Array:
        """Append up to ``graph.tokens`` new tokens to a slot; return the last one's logits [V].

        These are ids [T] or, where the graphs take them, vectors [T, features]. A graph that
        verifies gives the logits of all, [T, V], those of padding too.
        """
        ...

    def slot_bytes(self, tokens: int) -> int:
        """See ``Backend``."""
        ...

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See ``Backend``."""
        ...

    def read_cache(self, slot: int, length: int) -> Array:
        """See ``Backend``."""
        ...

    def write_cache(self, slot: int, cache: Array) -> None:
        """See ``Backend``."""
        ...

    def release(self, slot: int) -> None:
        """See ``Backend``."""
        ...

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        ...


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
    except LOADING_ERRORS as error:
        causes.append(f"CompiledModel: {error}")
    try:
        return InterpreterEngine(bundle, threads=threads, slots=slots, capacity=capacity)
    except (ImportError, AttributeError, RuntimeError, ValueError) as error:
        causes.append(f"Interpreter: {error}")
    raise BackendError(
        f"LiteRT can not load {bundle.file('graph').name} of {bundle.path.name}: "
        f"{'; '.join(causes)}. Export the model again, or install a newer one: pip install "
        "--upgrade ai-edge-litert"
    )

"""The onnxruntime back end: the one module that imports onnxruntime.

Workflow: the keys and values of all slots lie in two arrays a layer, allocated once; every step
binds the rows it works on as both past and present, so that GroupQueryAttention writes new
positions in place and nothing is copied. What repeats from step to step is bound once and kept.

Rules: the pages of an allocation are taken from the system as positions are written, so a long
context costs nothing before it is used; the logits that a step returns are valid until the next.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgewise.runtime.backends.onnx_packed import SETTINGS, drop_packed_graph, packed_graph
from edgewise.runtime.backends.page_release import lazy_zeros, release_pages
from edgewise.runtime.backends.protocol import BackendError, Cache
from edgewise.runtime.bundle import Bundle, decoder_cache, logits_size

logger = logging.getLogger(__name__)

_ERRORS_ONLY = 3  # onnxruntime's logging severity
INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
LOGITS = "logits"
LOGITS_OFFSETS = "logits_offsets"  # optional: whose logits are given, from the last token


class OnnxBackend:
    """Fulfils ``Backend`` with an onnxruntime session."""

    rows_share_work = True
    _new_tokens_name = INPUT_IDS  # the graph's input that brings the new tokens

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        slots: int = 1,
        capacity: int,
        keep_packed: bool = False,
    ) -> None:
        """Load the graph and lay out the cache.

        Args:
            bundle: An opened bundle with ``runtime`` "onnx".
            threads: Threads that compute one step.
            slots: Sequences that can be held at once.
            capacity: Tokens that each slot can hold.
            keep_packed: Keep the optimized graph and packed weights in files for later loads.

        Raises:
            BackendError: onnxruntime can not load the graph.
        """
        manifest = bundle.manifest
        layout = decoder_cache(manifest)
        self.slots = slots
        self.capacity = capacity
        self.vocabulary_size = logits_size(manifest)
        self._session: Any = _load_packed(bundle, threads) if keep_packed else None
        if self._session is None:
            self._session = _load_session(bundle, threads)
        shape = (slots, layout.key_value_heads, capacity, layout.head_size)
        self._past_names, self._present_names = layout.past_names, layout.present_names
        self._cache = [lazy_zeros(shape, layout.dtype) for _ in self._past_names]
        self._mask = np.ones((1, capacity), np.int64)
        self._bindings: dict[tuple[int, int, int], _RowsBinding] = {}

    @classmethod
    def open_packed(cls, bundle: Bundle, *, threads: int, slots: int = 1, capacity: int) -> Self:
        """Load a bundle and keep what onnxruntime packs of it; arguments are the constructor's."""
        return cls(bundle, threads=threads, slots=slots, capacity=capacity, keep_packed=True)

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
        new: NDArray[Any],
        past_lengths: NDArray[np.int32],
        counts: NDArray[np.int32] | None,
    ) -> NDArray[np.float32]:
        """Do as `step` with ids [B, T], or with what else the graph takes, [B, T, ...]."""
        rows, new_tokens = new.shape[:2]
        if counts is not None and new_tokens > 1 and past_lengths.any() and rows > 1:
            # The graph takes right padding in a first pass alone: these rows go one by one.
            logits = [
                self._append(
                    first_slot + row,
                    new[row : row + 1, : counts[row]],
                    past_lengths[row : row + 1],
                    None,
                ).copy()
                for row in range(rows)
            ]
            return np.concatenate(logits)
        binding = self._rows_binding(first_slot, rows)
        if rows == 1:
            total = int(past_lengths[0]) + (new_tokens if counts is None else int(counts[0]))
            mask = self._mask[:, :total]
            new = new[:, : total - int(past_lengths[0])]
        else:
            totals = past_lengths + (new_tokens if counts is None else counts)
            mask = (np.arange(totals.max()) < totals[:, None]).astype(np.int64)
        return binding.run(self._new_tokens_name, new, mask)[:, 0]

    @property
    def verifies(self) -> bool:
        """See ``VerifyingBackend``."""
        return any(
            item.name == LOGITS_OFFSETS for item in self._session.get_overridable_initializers()
        )

    def verify(
        self, slot: int, token_ids: NDArray[np.int64], past_length: int
    ) -> NDArray[np.float32]:
        """See ``VerifyingBackend``."""
        count = len(token_ids)
        binding = self._rows_binding(slot, 1, logits=count)
        mask = self._mask[:, : past_length + count]
        logits: NDArray[np.float32] = binding.run(self._new_tokens_name, token_ids[None], mask)[0]
        return logits

    def slot_bytes(self, tokens: int) -> int:
        """See ``Backend``."""
        return sum(cache_bytes(layer, tokens) for layer in self._cache)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See ``Backend``."""
        for layer in self._cache:
            layer[target, :, :length] = layer[source, :, :length]

    def read_cache(self, slot: int, length: int) -> Cache:
        """See ``Backend``."""
        return np.stack([layer[slot, :, :length] for layer in self._cache])

    def write_cache(self, slot: int, cache: Cache) -> None:
        """See ``Backend``."""
        for layer, given in zip(self._cache, cache, strict=True):
            layer[slot, :, : given.shape[1]] = given

    def release(self, slot: int) -> None:
        """See ``Backend``."""
        for layer in self._cache:
            release_pages(layer[slot])

    def close(self) -> None:
        """Give the session's and the cache's memory back."""
        self._bindings.clear()
        self._cache.clear()
        self._session = None

    def _rows_binding(self, first_slot: int, rows: int, *, logits: int = 1) -> _RowsBinding:
        key = (first_slot, rows, logits)
        if key not in self._bindings:
            self._bindings[key] = _RowsBinding(
                self._session,
                self._past_names,
                self._present_names,
                [layer[first_slot : first_slot + rows] for layer in self._cache],
                (logits, self.vocabulary_size),
            )
        return self._bindings[key]


class _RowsBinding:
    """Everything bound once for one run of neighbouring slots."""

    def __init__(
        self,
        session: Any,
        past_names: Sequence[str],
        present_names: Sequence[str],
        cache: Sequence[NDArray[Any]],
        logits: tuple[int, int],  # of how many last tokens, and the vocabulary's size
    ) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._logits: NDArray[np.float32] | None = None
        for past, present, rows in zip(past_names, present_names, cache, strict=True):
            # Wraps the array's own memory: past and present are the same bytes.
            value = ort_value(rows)
            self._binding.bind_ortvalue_input(past, value)
            self._binding.bind_ortvalue_output(present, value)
        if logits[0] > 1:
            offsets = np.arange(1 - logits[0], 1, dtype=np.int64).reshape(1, -1, 1)
            self._binding.bind_ortvalue_input(LOGITS_OFFSETS, ort_value(offsets))
        else:
            self._logits = np.empty((len(cache[0]), *logits), np.float32)
            self._binding.bind_ortvalue_output(LOGITS, ort_value(self._logits))

    def run(self, name: str, new: NDArray[Any], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        self._binding.bind_cpu_input(name, np.ascontiguousarray(new))
        self._binding.bind_cpu_input(ATTENTION_MASK, mask)
        if self._logits is None:
            # The graph declares one token's logits, as onnxruntime-genai expects, so that memory
            # for more is refused when it comes from outside.
            self._binding.bind_output(LOGITS, "cpu")
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # onnxruntime raises a class of its own for each cause
            raise BackendError(
                f"onnxruntime {onnxruntime.__version__} failed while it computed {mask.shape[1]} "
                f"tokens: {error}"
            ) from error
        if self._logits is not None:
            return self._logits
        logits: NDArray[np.float32] = self._binding.get_outputs()[-1].numpy()
        return logits


def ort_value(array: NDArray[Any]) -> Any:
    """Return a value of onnxruntime over an array's own memory, which it keeps alive."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def cache_bytes(layer: NDArray[Any], tokens: int) -> int:
    """Return what some tokens of one slot take of an array [slots, heads, positions, size].

    Each head's positions lie together, in whole pages.
    """
    _, heads, capacity, size = layer.shape
    head_bytes = int(min(tokens, capacity) * size * layer.itemsize)
    pages = -(-head_bytes // mmap.PAGESIZE)
    return int(heads) * pages * mmap.PAGESIZE


def _load_session(bundle: Bundle, threads: int) -> Any:
    manifest = bundle.manifest
    path = bundle.file("graph")
    try:
        return open_session(path, threads=threads, providers=manifest.execution_providers)
    except BackendError as error:
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} can not load {path.name} of "
            f"{bundle.path.name}: {str(error.__cause__).rstrip('.')}. Export the model again."
        ) from error


def _load_packed(bundle: Bundle, threads: int) -> Any | None:
    """Load what was packed at an earlier load, packing it first if this one is the first."""
    providers = _usable_providers(bundle.manifest.execution_providers)
    if providers != ["CPUExecutionProvider"] or not bundle.has("weights"):
        return None

    def make(path: Path) -> None:
        options = session_options(threads)
        options.optimized_model_filepath = str(path)
        for name, value in SETTINGS.items():
            options.add_session_config_entry(name, value)
        onnxruntime.InferenceSession(str(bundle.file("graph")), options, providers=providers)

    try:
        packed = packed_graph(
            bundle.file("graph"), bundle.file("weights"), onnxruntime.__version__, make
        )
    except Exception as error:  # noqa: BLE001  # onnxruntime has a class for each cause
        # What the graph itself is to blame for is told where it is loaded as it is.
        logger.info("onnxruntime can not keep the packed weights: %s", error)
        return None
    if packed is None:
        return None
    options = session_options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(packed), options, providers=providers)
    except Exception as error:  # noqa: BLE001  # as above
        logger.info("the packed weights are no use and are deleted: %s", error)
        drop_packed_graph(packed)
        return None


def session_options(threads: int) -> Any:
    """Return the settings of a session that computes with so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Weights need not pass through the arena, which would keep what it once took.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return options


def _usable_providers(providers: Sequence[str]) -> list[str]:
    available = set(onnxruntime.get_available_providers())
    usable = [name for name in providers if name in available]
    if "CPUExecutionProvider" not in usable:
        usable.append("CPUExecutionProvider")
    return usable


def open_session(
    path: Path, *, threads: int, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> Any:
    """Load a graph; the weights file lies beside it.

    Args:
        path: The .onnx file.
        threads: Threads that compute one call.
        providers: onnxruntime's names, the preferred first; what is missing here is left out.

    Raises:
        BackendError: onnxruntime can not load it.
    """
    try:
        return onnxruntime.InferenceSession(
            str(path), session_options(threads), providers=_usable_providers(providers)
        )
    except Exception as error:  # onnxruntime raises a class of its own for each cause
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} can not load {path.name}: {error}"
        ) from error

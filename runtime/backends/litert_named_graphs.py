"""Runs the graphs of a .tflite that keep nothing between calls, by name with arrays.

`open_named_graphs` gives what this machine can: `PackedGraphs` by ``CompiledModel``, whose weights
are packed once for all graphs and lie in a file, else `InterpretedGraphs` by ``Interpreter``, which
packs them again for every graph that is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from edgewise.runtime.backends.litert_compiled_model import (
    LOADING_ERRORS,
    buffer_view,
    load_compiled_model,
)
from edgewise.runtime.backends.litert_feed import Array
from edgewise.runtime.backends.litert_interpreter import interpreter_library
from edgewise.runtime.backends.litert_library import make_importable
from edgewise.runtime.backends.litert_notes import without_notes
from edgewise.runtime.backends.protocol import BackendError


class NamedGraphs(Protocol):
    """The graphs of a file, called by name with arrays and giving arrays."""

    @property
    def names(self) -> tuple[str, ...]:
        """The graphs."""
        ...

    def inputs(self, name: str) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes that a graph takes."""
        ...

    def run(self, name: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run a graph with what it takes of some arrays; the results are the caller's."""
        ...

    def close(self) -> None:
        """Give the memory back; nothing can be run afterwards."""
        ...


def open_named_graphs(path: Path, threads: int, *, keep_packed: bool = True) -> NamedGraphs:
    """Load a file by the first library that can.

    Args:
        path: The .tflite file.
        threads: Threads that compute one call.
        keep_packed: Keep packed weights in a file for later loads.

    Raises:
        BackendError: LiteRT can not load it; the message has the cause of each.
    """
    make_importable()
    try:
        return PackedGraphs(path, threads, keep_packed=keep_packed)
    except LOADING_ERRORS as error:
        cause = f"CompiledModel: {error}"
    try:
        return InterpretedGraphs(path, threads)
    except (ImportError, AttributeError, RuntimeError, ValueError) as error:
        raise BackendError(
            f"LiteRT can not load {path.name}: {cause}; Interpreter: {error}. Install a newer one: "
            "pip install --upgrade ai-edge-litert"
        ) from error


class PackedGraphs:
    """Fulfils `NamedGraphs` by ``CompiledModel``; buffers are made when a graph is first run."""

    def __init__(self, path: Path, threads: int, *, keep_packed: bool = True) -> None:
        """Load a file; arguments as `open_named_graphs`.

        Raises:
            LOADING_ERRORS: The library is missing, too old, or can not load the file.
        """
        self._model: Any = load_compiled_model(path, threads, keep_packed=keep_packed)
        self._signatures: Mapping[str, Any] = self._model.get_signature_list()
        self.names = tuple(self._signatures)
        self._calls: dict[str, _Call] = {}

    def inputs(self, name: str) -> Mapping[str, tuple[int, ...]]:
        """See `NamedGraphs`."""
        details = self._model.get_input_tensor_details(name)
        return {key: tuple(map(int, detail["shape"])) for key, detail in details.items()}

    def run(self, name: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """See `NamedGraphs`."""
        if name not in self._calls:
            self._calls[name] = _Call(self._model, name, self._signatures[name])
        return self._calls[name].run(feeds)

    def close(self) -> None:
        """See `NamedGraphs`; the library writes notes of what it ends."""
        with without_notes():
            self._calls.clear()
            self._model = None


class _Call:
    """A graph with its buffers, and views of them."""

    def __init__(self, model: Any, name: str, signature: Mapping[str, Any]) -> None:
        given = model.get_input_tensor_details(name)
        results = model.get_output_tensor_details(name)
        self._model = model
        self._index = model.get_signature_index(name)
        self._inputs = [model.create_input_buffer_by_name(name, key) for key in signature["inputs"]]
        self._outputs = [
            model.create_output_buffer_by_name(name, key) for key in signature["outputs"]
        ]
        self._fed = {
            key: buffer_view(buffer, given[key])
            for key, buffer in zip(signature["inputs"], self._inputs, strict=True)
        }
        self._results = {
            key: buffer_view(buffer, results[key])
            for key, buffer in zip(signature["outputs"], self._outputs, strict=True)
        }

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        for key, view in self._fed.items():
            view[...] = feeds[key]
        self._model.run_by_index(self._index, self._inputs, self._outputs)
        return {key: view.copy() for key, view in self._results.items()}


class InterpretedGraphs:
    """Fulfils `NamedGraphs` by ``Interpreter``."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load a file.

        Raises:
            ImportError: No library is installed.
            RuntimeError: The library can not load it.
            ValueError: It is no .tflite file.
        """
        with without_notes():
            self._interpreter: Any = interpreter_library().Interpreter(
                model_path=str(path), num_threads=threads
            )
        self.names = tuple(self._interpreter.get_signature_list())
        self._runners: dict[str, tuple[Any, Mapping[str, Any]]] = {}

    def inputs(self, name: str) -> Mapping[str, tuple[int, ...]]:
        """See `NamedGraphs`."""
        return {key: tuple(detail["shape"]) for key, detail in self._runner(name)[1].items()}

    def run(self, name: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """See `NamedGraphs`."""
        runner, taken = self._runner(name)
        results: Mapping[str, Array] = runner(**{key: feeds[key] for key in taken})
        return results

    def close(self) -> None:
        """See `NamedGraphs`."""
        self._runners.clear()
        self._interpreter = None

    def _runner(self, name: str) -> tuple[Any, Mapping[str, Any]]:
        if name not in self._runners:
            with without_notes():
                runner = self._interpreter.get_signature_runner(name)
            self._runners[name] = (runner, runner.get_input_details())
        return self._runners[name]

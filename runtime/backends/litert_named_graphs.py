"""Runs the graphs of a .tflite that keep nothing between calls, by ``Interpreter``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgewise.runtime.backends.litert_feed import Array
from edgewise.runtime.backends.litert_interpreter import interpreter_library
from edgewise.runtime.backends.litert_notes import without_notes
from edgewise.runtime.backends.protocol import BackendError


class NamedGraphs:
    """The graphs of a file, called by name with arrays and giving arrays."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load a file.

        Args:
            path: The .tflite file.
            threads: Threads that compute one call.

        Raises:
            BackendError: LiteRT can not load it.
        """
        try:
            with without_notes():
                self._interpreter = interpreter_library().Interpreter(
                    model_path=str(path), num_threads=threads
                )
            self.names = tuple(self._interpreter.get_signature_list())
        except (ImportError, RuntimeError, ValueError) as error:
            raise BackendError(
                f"LiteRT can not load {path.name}: {error}. Install a newer one: "
                "pip install --upgrade ai-edge-litert"
            ) from error
        self._runners: dict[str, tuple[Any, Mapping[str, Any]]] = {}

    def inputs(self, name: str) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes that a graph takes."""
        return {key: tuple(detail["shape"]) for key, detail in self._runner(name)[1].items()}

    def run(self, name: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run a graph with what it takes of some arrays."""
        runner, taken = self._runner(name)
        results: Mapping[str, Array] = runner(**{key: feeds[key] for key in taken})
        return results

    def _runner(self, name: str) -> tuple[Any, Mapping[str, Any]]:
        if name not in self._runners:
            with without_notes():
                runner = self._interpreter.get_signature_runner(name)
            self._runners[name] = (runner, runner.get_input_details())
        return self._runners[name]

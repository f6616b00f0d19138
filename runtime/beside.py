"""Work in native code that goes on in a thread while the interpreter does something else.

Workflow: enter a `Beside` with the work, do the rest in its block, and take the `result` after it.
It pays where the work leaves the interpreter's lock to others, as laying out a graph does.

Rule: the block does not end before the work has, so that nothing goes on behind an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

Result = TypeVar("Result")


class Beside(Generic[Result]):
    """See the module's docstring."""

    def __init__(self, work: Callable[[], Result]) -> None:
        """Prepare; entering the block begins.

        Args:
            work: Called once, in another thread.
        """
        self._work = work
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="beside")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.join()

    def result(self) -> Result:
        """Return what the work gave, or raise what it raised; after the block."""
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            self._error = error

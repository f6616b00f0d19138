"""How whoever asked takes a request back, wherever it is.

Closing a generation cancels it, but only its own thread can, and that thread may be waiting inside.
So a request carries a `Cancellation`, which any other thread sets.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from edgewise.common.errors import EdgewiseError


class CancelledError(EdgewiseError):
    """A request was taken back before its answer was whole."""


class Cancellation:
    """Whether a request, or several of one client, is wanted no more. Any thread may ask or set."""

    def __init__(self) -> None:
        """Begin wanted."""
        self._lock = threading.Lock()
        self._cancelled = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """Whether it was set."""
        return self._cancelled

    def cancel(self) -> None:
        """Take the request back; a second call does nothing."""
        with self._lock:
            self._cancelled = True
            listeners, self._listeners = self._listeners, []
        for tell in listeners:
            tell()

    def check(self) -> None:
        """Go on only while the request is wanted.

        Raises:
            CancelledError: It is not.
        """
        if self._cancelled:
            raise CancelledError("the request was cancelled")

    @contextlib.contextmanager
    def heard(self, tell: Callable[[], None]) -> Iterator[None]:
        """Listen while the block runs.

        Args:
            tell: Called once, in the thread that cancels or, where that has happened, in this one;
                must be quick.
        """
        with self._lock:
            late = self._cancelled
            if not late:
                self._listeners.append(tell)
        if late:
            tell()
        try:
            yield
        finally:
            with self._lock:
                if tell in self._listeners:
                    self._listeners.remove(tell)

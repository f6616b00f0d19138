"""Keys and values of prompts' beginnings that outlive their slot.

Workflow: what a slot loses to another prompt is `put` here when there is a budget for it, and
`add_saved` makes files known that were written before (prefix_files.py). A prompt asks `longest`
before it is computed; `read` gives the keys and values, which are written into its slot.

Rules: what was put takes memory, never more than the budget, and the one that was unused longest
goes first; pinned ones never go, and a budget that they fill takes nothing else. What is saved
takes no memory until it is read. A file that can not be read is forgotten and costs only time.
Every method may be called from any thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.backends.protocol import Cache
from edgewise.runtime.prefix_tree import PrefixTree

logger = logging.getLogger(__name__)


class PrefixError(EdgewiseError):
    """A beginning that can not be kept, or a file that holds none."""


@dataclass
class _Entry:
    """One beginning."""

    tokens: tuple[int, ...]
    read: Callable[[], Cache]
    bytes: int  # of memory
    pinned: bool
    used: int = 0  # when it was last asked for, in uses


class PrefixStore:
    """See the module's docstring."""

    def __init__(self, budget_bytes: int = 0) -> None:
        """Begin with nothing.

        Args:
            budget_bytes: What everything that was put may take; 0: only what is saved is known.
        """
        self.budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._entries: dict[int, _Entry] = {}
        self._tree: PrefixTree[int] = PrefixTree()
        self._next_key = 0
        self._uses = 0

    def __len__(self) -> int:
        """Return how many beginnings are known."""
        return len(self._entries)

    @property
    def bytes_taken(self) -> int:
        """The memory of everything that was put."""
        return sum(entry.bytes for entry in self._entries.values())

    def longest(self, tokens: Sequence[int]) -> int:
        """Return how many first tokens of a prompt are known, and note that they are in use."""
        if not self._entries:
            return 0
        with self._lock:
            match = self._tree.longest(tokens)
            for key in match.keys:
                self._note_use(self._entries[key])
            return match.length

    def read(self, tokens: Sequence[int]) -> Cache | None:
        """Return keys and values of all these tokens, or None: they are not known (any more)."""
        while True:
            with self._lock:
                match = self._tree.longest(tokens)
                if not tokens or match.length < len(tokens):
                    return None
                key = min(match.keys)
                entry = self._entries[key]
                self._note_use(entry)
            try:
                return entry.read()[:, :, : len(tokens)]
            except PrefixError as error:
                logger.warning("%s", error)
                self._forget(key)

    def put(
        self, tokens: Sequence[int], cache: Callable[[], Cache], *, pinned: bool = False
    ) -> bool:
        """Keep a beginning in memory.

        Args:
            tokens: Its ids.
            cache: Gives its keys and values, if they are kept; the array must not change later.
            pinned: Whether it stays whatever comes.

        Returns:
            Whether it is kept: False where the budget has no room, or it is known already.
        """
        if not tokens or not (pinned or self.budget_bytes):
            return False
        with self._lock:
            if self._tree.longest(tokens).length == len(tokens) and not pinned:
                return False
        array = cache()
        with self._lock:
            covered = [
                key
                for key, entry in self._entries.items()
                if entry.bytes and not entry.pinned and tokens[: len(entry.tokens)] == entry.tokens
            ]
            for key in covered:
                self._remove(key)
            if not pinned and not self._make_room(array.nbytes):
                return False
            self._add(_Entry(tuple(tokens), lambda: array, array.nbytes, pinned))
            return True

    def add_saved(self, tokens: Sequence[int], read: Callable[[], Cache]) -> None:
        """Make a beginning known that lies on the disk.

        Args:
            tokens: Its ids.
            read: Gives its keys and values; raises `PrefixError` where it can not.
        """
        with self._lock:
            self._add(_Entry(tuple(tokens), read, 0, pinned=True))

    def _add(self, entry: _Entry) -> None:
        self._note_use(entry)
        self._entries[self._next_key] = entry
        self._tree.insert(self._next_key, entry.tokens)
        self._next_key += 1

    def _note_use(self, entry: _Entry) -> None:
        self._uses += 1
        entry.used = self._uses

    def _make_room(self, needed: int) -> bool:
        pinned = sum(entry.bytes for entry in self._entries.values() if entry.pinned)
        if needed > self.budget_bytes - pinned:
            return False
        while self.bytes_taken + needed > self.budget_bytes:
            unpinned = (key for key, entry in self._entries.items() if not entry.pinned)
            self._remove(min(unpinned, key=lambda key: self._entries[key].used))
        return True

    def _forget(self, key: int) -> None:
        with self._lock:
            if key in self._entries:
                self._remove(key)

    def _remove(self, key: int) -> None:
        self._tree.remove(key)
        del self._entries[key]

"""What a decoder attends to, kept with the slots: which slot has read which source.

Workflow: `read` puts sources that were encoded together into neighbouring slots, `copy` lets a slot
share another's, and `rows` gives what a step over neighbouring slots binds. Rules: nothing is
copied where slots were read together; a source that several slots share is repeated for them once,
when they are first computed together, because a graph takes a row of it for each of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sources:
    """Sources that were encoded together, a row each."""

    mask: NDArray[np.int64]  # [B, S], 1 for real tokens
    cross: Mapping[str, NDArray[np.float32]]  # [B, heads, S, size] each, keys and values

    def taken(self, rows: slice | NDArray[np.int64]) -> Sources:
        """Return some rows: neighbours without a copy, or any by their indices."""
        return Sources(self.mask[rows], {name: array[rows] for name, array in self.cross.items()})


class _Read(NamedTuple):
    """What one slot has read."""

    sources: Sources
    row: int


class ReadSources:
    """The sources of all slots of one back end."""

    def __init__(self, slots: int) -> None:
        """Begin with slots that have read nothing."""
        self._reads: list[_Read | None] = [None] * slots
        self._repeated: tuple[_Read, Sources] | None = None  # the last that was repeated

    def read(self, first_slot: int, sources: Sources) -> None:
        """Give neighbouring slots a source each."""
        self._repeated = None
        for row in range(len(sources.mask)):
            self._reads[first_slot + row] = _Read(sources, row)

    def copy(self, source: int, target: int) -> None:
        """Let a slot attend to what another has read."""
        self._reads[target] = self._reads[source]

    def forget(self, slot: int) -> None:
        """Let a slot have read nothing."""
        self._repeated = None
        self._reads[slot] = None

    def rows(self, first_slot: int, count: int) -> Sources | None:
        """Return a row for each of neighbouring slots.

        Returns:
            None if they have read nothing, or neither the same source nor neighbouring ones: then
            they can not be computed together.
        """
        reads = self._reads[first_slot : first_slot + count]
        first = reads[0]
        if first is None:
            return None
        found = [read.row for read in reads if read is not None and read.sources is first.sources]
        if found == list(range(first.row, first.row + count)):
            return first.sources.taken(slice(first.row, first.row + count))
        if found != [first.row] * count:
            return None
        held = self._repeated
        if held is None or held[0] != first or len(held[1].mask) < count:
            self._repeated = held = (first, first.sources.taken(np.full(count, first.row)))
        return held[1].taken(slice(0, count))

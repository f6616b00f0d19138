"""The error of a checkpoint that can not be read, and the wording that its messages share."""

from __future__ import annotations

from collections.abc import Iterable

from edgewise.common.errors import EdgewiseError

MOST_NAMES = 20  # names that a message lists in full before it only counts


class CheckpointError(EdgewiseError):
    """A checkpoint is missing, damaged, or of a kind that is not accepted."""


def listed(names: Iterable[str], *, most: int = MOST_NAMES) -> str:
    """Join names for a message, and count those past ``most``."""
    everything = list(names)
    text = ", ".join(everything[:most])
    left = len(everything) - most
    return f"{text} and {left} more" if left > 0 else text

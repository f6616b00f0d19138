"""Rows of ids with padding before or behind them, as tokenizers give batches.

Workflow: `in_front` moves the real tokens of each row to its front, which is how engines take rows;
`PaddedRows.back` brings what was computed of them to where they stood, `PaddedRows.lists` drops the
padding. Rule: a row's result is that of the row alone, whichever side is padded: its positions are
counted from its first real token. (`transformers` does so for RoBERTa, T5 and whatever it generates
with. To BERT, DistilBERT and BART it gives other positions, and so other results, where padding
stands before the tokens, unless the caller sets them.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgewise.common.errors import EdgewiseError

Number = TypeVar("Number", bound=np.generic)


class PaddingError(EdgewiseError):
    """Rows whose real tokens can not be told from their padding, or that no model can read."""


@dataclass(frozen=True, eq=False)
class PaddedRows:
    """Rows whose real tokens stand in front.

    Attributes:
        token_ids: int64 [B, T], the real tokens first, zeros behind them.
        counts: int32 [B], how many of each row are real, at least 1.
        starts: int64 [B], where each row's real tokens began.
    """

    token_ids: NDArray[np.int64]
    counts: NDArray[np.int32]
    starts: NDArray[np.int64]

    def lists(self) -> list[list[int]]:
        """Return the real tokens of each row."""
        rows = zip(self.token_ids.tolist(), self.counts.tolist(), strict=True)
        return [row[:count] for row, count in rows]

    def front(self, given: NDArray[Number]) -> NDArray[Number]:
        """Move what belongs to the tokens as they were given, [B, T, ...], as they were moved."""
        moved = np.zeros_like(given)
        for row, (start, count) in enumerate(zip(self.starts, self.counts, strict=True)):
            moved[row, :count] = given[row, start : start + count]
        return moved

    def back(self, computed: NDArray[Number]) -> NDArray[Number]:
        """Bring what belongs to the moved tokens, [B, T, ...], to their places; padding gets 0."""
        placed = np.zeros_like(computed)
        for row, (start, count) in enumerate(zip(self.starts, self.counts, strict=True)):
            placed[row, start : start + count] = computed[row, :count]
        return placed


def in_front(
    token_ids: ArrayLike,
    attention_mask: ArrayLike | None = None,
    *,
    vocabulary_size: int | None = None,
) -> PaddedRows:
    """Move the real tokens of each row to its front.

    Args:
        token_ids: [B, T], whole numbers; the padding may be any.
        attention_mask: [B, T], 1 for real tokens and 0 for padding, on either side; None: all are
            real.
        vocabulary_size: Ids from here on are refused; None: none is.

    Raises:
        PaddingError: The shapes differ or are no such, a row has no token or padding between two,
            or an id is outside the vocabulary.
    """
    ids = _whole_numbers("token_ids", token_ids)
    mask = np.ones_like(ids)
    if attention_mask is not None:
        mask = _whole_numbers("attention_mask", attention_mask)
    if mask.shape != ids.shape:
        raise PaddingError(
            f"attention_mask has the shape {mask.shape} and token_ids {ids.shape}; accepted: one"
            " number of the mask for each id"
        )
    if ((mask != 0) & (mask != 1)).any():
        raise PaddingError(
            "attention_mask has other numbers; accepted: 1 for tokens, 0 for padding"
        )
    counts = mask.sum(axis=1)
    starts = mask.argmax(axis=1)
    ends = mask.shape[1] - mask[:, ::-1].argmax(axis=1)
    for row in range(len(ids)):
        if not counts[row]:
            raise PaddingError(f"row {row} has no token; give at least one that is not padding")
        if ends[row] - starts[row] != counts[row]:
            raise PaddingError(
                f"row {row} has padding between its tokens; accepted: before or behind them"
            )
    outside = (mask == 1) & ((ids < 0) | (ids >= (vocabulary_size or np.iinfo(np.int64).max)))
    if outside.any():
        last = "" if vocabulary_size is None else f" to {vocabulary_size - 1}"
        raise PaddingError(f"token_ids has {ids[outside][0]}; accepted: ids from 0{last}")
    rows = PaddedRows(ids, counts.astype(np.int32), starts)
    return PaddedRows(rows.front(ids), rows.counts, rows.starts)


def _whole_numbers(name: str, given: ArrayLike) -> NDArray[np.int64]:
    try:
        array: NDArray[Any] = np.asarray(given)
    except ValueError:  # rows of several lengths
        array = np.empty(0)
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "iub":
        raise PaddingError(
            f"{name} has the shape {array.shape} and the type {array.dtype}; accepted: rows of"
            " whole numbers, all of one length, which padding makes them"
        )
    return array.astype(np.int64)

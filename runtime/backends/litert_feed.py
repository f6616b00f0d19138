"""What the graphs of a .tflite take and give beside the cache, by name. Knows no library."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.bundle import CacheLayout

TOKEN_IDS = "token_ids"  # noqa: S105  # a name, no secret
EMBEDDINGS = "embeddings"
POSITIONS = "positions"
LAST_TOKEN = "last_token"  # noqa: S105  # a name, no secret
LOGITS = "logits"

Array = NDArray[Any]


def new_tokens_name(inputs: Container[str]) -> str:
    """Return which input of a graph brings the new tokens: their ids, or their vectors."""
    return EMBEDDINGS if EMBEDDINGS in inputs else TOKEN_IDS


def verifies(inputs: Container[str], tokens: int) -> bool:
    """Return whether a graph gives the logits of every token: of several, it takes none as last."""
    return tokens > 1 and LAST_TOKEN not in inputs


class CacheNames(NamedTuple):
    """Names of cache inputs and of what is new, keys and values of all layers alternating."""

    cache: tuple[str, ...]
    new: tuple[str, ...]

    @classmethod
    def of(cls, layout: CacheLayout) -> CacheNames:
        """Write the layout's names out for every layer."""
        return cls(layout.past_names, layout.present_names)


class Feed:
    """The inputs beside the cache, and the results, of all graphs of one number of tokens."""

    def __init__(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], names: CacheNames
    ):
        self._inputs = inputs
        self._new_tokens = inputs[new_tokens_name(inputs)]
        logits = outputs[LOGITS]
        rows = logits.reshape(-1, logits.shape[-1])
        self._logits = rows if verifies(inputs, len(self._new_tokens)) else rows[0]
        self._new = [outputs[name][0] for name in names.new]  # [heads, T, size] each

    def write(self, new_tokens: Array, past: int) -> None:
        """Give ids or vectors, padded by the last one, and what follows from their number."""
        count = len(new_tokens)
        self._new_tokens[:count] = new_tokens
        self._new_tokens[count:] = new_tokens[-1]
        self._inputs[POSITIONS][:] = np.arange(past, past + len(self._new_tokens))
        if LAST_TOKEN in self._inputs:
            self._inputs[LAST_TOKEN][0] = count - 1

    def append_to(self, caches: list[Array], past: int, count: int) -> None:
        """Copy the new keys and values behind the past: caches are [heads, S, size] each."""
        for cache, new in zip(caches, self._new, strict=True):
            cache[:, past : past + count] = new[:, :count]

    @property
    def logits(self) -> Array:
        """The last token's, [V], or those of all, [T, V]; valid until the next run."""
        return self._logits

"""What the graphs of a .tflite take and give beside the cache, by name. Knows no library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.bundle import CacheLayout

TOKEN_IDS = "token_ids"  # noqa: S105  # a name, no secret
POSITIONS = "positions"
LAST_TOKEN = "last_token"  # noqa: S105  # a name, no secret
LOGITS = "logits"

Array = NDArray[Any]


class CacheNames(NamedTuple):
    """Names of cache inputs and of what is new, keys and values of all layers alternating."""

    cache: tuple[str, ...]
    new: tuple[str, ...]

    @classmethod
    def of(cls, layout: CacheLayout) -> CacheNames:
        """Write the layout's names out for every layer."""
        layers = range(layout.layers)
        cache = (layout.past_key_name, layout.past_value_name)
        new = (layout.present_key_name, layout.present_value_name)
        return cls(
            tuple(name.format(layer=layer) for layer in layers for name in cache),
            tuple(name.format(layer=layer) for layer in layers for name in new),
        )


class Feed:
    """The inputs beside the cache, and the results, of all graphs of one number of tokens."""

    def __init__(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], names: CacheNames
    ):
        self._inputs = inputs
        self._logits = outputs[LOGITS].reshape(-1)
        self._new = [outputs[name][0] for name in names.new]  # [heads, T, size] each

    def write(self, token_ids: Array, past: int) -> None:
        """Give ids, padded by the last one, and what follows from their number."""
        count = len(token_ids)
        ids = self._inputs[TOKEN_IDS]
        ids[:count] = token_ids
        ids[count:] = token_ids[-1]
        self._inputs[POSITIONS][:] = np.arange(past, past + len(ids))
        if LAST_TOKEN in self._inputs:
            self._inputs[LAST_TOKEN][0] = count - 1

    def append_to(self, caches: list[Array], past: int, count: int) -> None:
        """Copy the new keys and values behind the past: caches are [heads, S, size] each."""
        for cache, new in zip(caches, self._new, strict=True):
            cache[:, past : past + count] = new[:, :count]

    @property
    def logits(self) -> Array:
        """The last token's, [V]; valid until the next run."""
        return self._logits

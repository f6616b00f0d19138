"""Buckets of relative positions: how T5 tells an attention head how far a key is from a query.

Near distances have a bucket each, farther ones share buckets whose width grows by a constant
factor, and all from ``largest_distance`` on share the last (arXiv 1910.10683, section 2.1). Rule:
the logarithm is taken in float32, as the models were trained with; in float64 some distances at the
edge of a bucket would fall into another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RelativeBuckets:
    """The constants of the bucket function.

    Attributes:
        count: Buckets in all.
        largest_distance: Positions; from here on everything falls into the last bucket.
        bidirectional: Whether keys behind the query have buckets of their own, half of all;
            otherwise they count as distance 0 and are for the causal mask to hide.
    """

    count: int
    largest_distance: int
    bidirectional: bool

    def of(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the bucket of each offset.

        Args:
            offsets: The key's position minus the query's, of any shape.
        """
        count = self.count
        first = np.zeros_like(offsets)
        if self.bidirectional:
            count //= 2
            first = (offsets > 0) * count
            distances = np.abs(offsets)
        else:
            distances = np.maximum(-offsets, 0)
        exact = count // 2
        ratio = np.maximum(distances, 1).astype(np.float32) / np.float32(exact)
        growth = np.float32(math.log(self.largest_distance / exact))
        steps = np.log(ratio) / growth * np.float32(count - exact)
        far = np.minimum(exact + steps.astype(np.int64), count - 1)
        buckets: NDArray[np.int64] = first + np.where(distances < exact, distances, far)
        return buckets

"""How much the last states change when one product alone is stored in fewer bits.

Workflow: `measure` runs the reference over one window of text, several copies of it at once. In
each copy one product is computed as it would be stored, everything else exactly; what has become of
the states that enter the head is compared with those of a copy in which all is exact. So a product
counts by what the layers behind it make of its error, which no error of its own result tells.

Rules: up to the first altered product the copies are one. Of a token the squared difference counts
relative to its own square, so that no token outweighs others; the first ones of the window, whose
states are of another kind, do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.calibration.builder import PREPARED_ROLES, CalibratingBuilder
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.numpy_operations import Array
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.plan import ExportPlan

COPIES = 32  # of the window in one pass, the exact one among them
UNCOUNTED_TOKENS = 4  # at the beginning, whose states are far larger (arXiv 2309.17453)
_LEAST_SQUARE = 1e-30  # a state of zeros must not divide by zero

Altered = Callable[[Sequence[Weight], Array], Array | None]
"""Given matrices that are multiplied as one and inputs [tokens, K]: their product [tokens, N] as it
would be stored, without biases; None for matrices that have no other form."""
Progress = Callable[[int, int], None]


class _Copies(CalibratingBuilder):
    """Computes copies of a window, each with one product altered but the first."""

    def __init__(self, window: NDArray[np.int64], first: int, altered: Altered) -> None:
        """Begin a pass.

        Args:
            window: int64 [tokens].
            first: Index of the product that the second copy has altered.
            altered: Computes it.
        """
        super().__init__(window[None], _exact)
        self._first = first
        self._altered = altered
        self.products = 0
        self.measured: list[bool] = []
        self.states: Array = np.empty((0, 0, 0), np.float32)

    def linear(
        self, x: Array, weights: Sequence[Weight], biases: Sequence[Weight] | None = None
    ) -> Array:
        """See ``Operations``."""
        result = super().linear(x, weights, biases)
        if weights[0].role not in PREPARED_ROLES:
            self.states = x
            return result
        copy = self.products - self._first + 1
        self.products += 1
        if copy >= 1 and len(x) == 1:
            # What comes before is alike in all copies: it was computed once.
            result = np.repeat(result, COPIES, axis=0)
            x = np.broadcast_to(x, (COPIES, *x.shape[1:]))
        if 1 <= copy < COPIES:
            product = self._altered(weights, x[copy])
            self.measured.append(product is not None)
            if product is not None:
                if biases is not None:
                    product = product + np.concatenate([bias.source.read() for bias in biases])
                result[copy] = product
        return result


def measure(
    checkpoint: Checkpoint,
    plan: ExportPlan,
    window: NDArray[np.int64],
    altered: Altered,
    progress: Progress,
) -> list[float]:
    """Measure every product for which there is another form.

    Args:
        checkpoint: The opened checkpoint.
        plan: What will be exported.
        window: int64 [tokens].
        altered: Computes a product as it would be stored.
        progress: Told how many products of how many are measured.

    Returns:
        A share for each product that ``altered`` gave a result for, in the order of the pass: the
        mean over tokens of the squared difference of the last state over its square.
    """
    shares: list[float] = []
    first, total = 0, 1
    while first < total:
        copies = _Copies(window, first, altered)
        plan.describe("forward", copies, checkpoint)
        exact = copies.states[0, UNCOUNTED_TOKENS:]
        squares = np.maximum(np.square(exact).sum(axis=1), _LEAST_SQUARE)
        for copy, is_measured in enumerate(copies.measured, start=1):
            if is_measured:
                difference = copies.states[copy, UNCOUNTED_TOKENS:] - exact
                shares.append(float((np.square(difference).sum(axis=1) / squares).mean()))
        first, total = first + COPIES - 1, copies.products
        progress(min(first, total), total)
    return shares


def _exact(weights: Sequence[Weight], inputs: Array) -> list[Array]:
    del inputs
    return [weight.source.read() for weight in weights]

"""The reference builder, stopping at every matrix that is to be prepared.

Rules: all windows of the text go through a layer together, what grows with the square of a window
goes through one by one; nothing is kept of a layer but its result. The head is not computed: what
it is quantized for no longer matters to any layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.graph.attention import Attention
from edgewise.exporter.graph.numpy_builder import NumpyBuilder, NumpyCache
from edgewise.exporter.graph.numpy_operations import Array
from edgewise.exporter.graph.protocol import Activation
from edgewise.exporter.graph.weight import Weight

PREPARED_ROLES = frozenset({"attention", "mlp"})

Prepare = Callable[[Sequence[Weight], Array], Sequence[Array]]
"""Given the matrices that read the same inputs, and these [tokens, K]: what the matrices stand for
from now on."""


class _NoCache(NumpyCache):
    """For windows that nothing follows."""

    def append(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Return what is given."""
        return keys, values


class CalibratingBuilder(NumpyBuilder):
    """Computes as the reference does, with every matrix as it stands after its preparation."""

    def __init__(self, token_ids: NDArray[np.int64], prepare: Prepare) -> None:
        """Begin a pass.

        Args:
            token_ids: int64 [windows, tokens].
            prepare: Told of all matrices, in the order in which they are used.
        """
        super().__init__(token_ids, _NoCache())
        self._prepare = prepare

    def linear(
        self, x: Array, weights: Sequence[Weight], biases: Sequence[Weight] | None = None
    ) -> Array:
        """See ``Operations``."""
        if weights[0].role not in PREPARED_ROLES:
            return np.empty((*x.shape[:-1], 0), np.float32)
        inputs = x.reshape(-1, x.shape[-1])
        matrices = self._prepare(weights, inputs)
        product = np.empty((len(inputs), sum(map(len, matrices))), np.float32)
        column = 0
        for matrix in matrices:
            np.matmul(inputs, matrix.T, out=product[:, column : column + len(matrix)])
            column += len(matrix)
        if biases is not None:
            product += np.concatenate([bias.source.read() for bias in biases])
        return product.reshape(*x.shape[:-1], -1)

    def attention(self, query_key_value: Array, attention: Attention) -> Array:
        """See ``GraphBuilder``."""
        windows = (window[None] for window in query_key_value)
        return np.concatenate([NumpyBuilder.attention(self, one, attention) for one in windows])

    def activation(self, x: Array, activation: Activation) -> Array:
        """See ``Operations``."""
        return np.stack([NumpyBuilder.activation(self, window, activation) for window in x])

    def gated_activation(self, gate_up: Array, activation: Activation) -> Array:
        """See ``Operations``."""
        gated = np.empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2), np.float32)
        for window, one in enumerate(gate_up):
            gated[window] = NumpyBuilder.gated_activation(self, one, activation)
        return gated

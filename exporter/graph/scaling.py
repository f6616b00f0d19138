"""Weights multiplied by factors by row and column, on their way into any builder.

A norm's factors divided by s, and the columns of every matrix behind it multiplied by s, give the
same numbers; so do rows of a matrix and the columns of the one that reads them through nothing but
products. `ScalingBuilder` stands before a builder and hands such weights on to it; neither the
model's definition nor the builder knows.

Rule: factors are powers of two, which change no significant digit. What is computed with float32
weights stays the same, bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.graph.derived_weights import Computed
from edgewise.exporter.graph.weight import Weight

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Factors:
    """What a weight is multiplied by.

    Attributes:
        rows: float32 [N], of a matrix's output channels or of a vector's numbers; None for 1.
        columns: float32 [K], of a matrix's input channels; None for 1.
    """

    rows: Vector | None = None
    columns: Vector | None = None


@dataclass(frozen=True)
class Scaled(Computed):
    """Another source with its rows and columns multiplied."""

    factors: Factors

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """See ``WeightSource``."""
        numbers = self.whole.read(start, stop)
        if self.factors.columns is not None:
            numbers = numbers * self.factors.columns
        if self.factors.rows is not None:
            rows = self.factors.rows[start:stop]
            numbers = numbers * rows.reshape(-1, *([1] * (numbers.ndim - 1)))
        return numbers


class ScalingBuilder:
    """Stands before a builder; its operations are those of that one, on scaled weights."""

    def __init__(self, builder: object, factors: Mapping[str, Factors]) -> None:
        """Begin.

        Args:
            builder: Of a decoder.
            factors: By the weights' names.
        """
        self._builder: Any = builder
        self._factors = factors

    def __getattr__(self, operation: str) -> Any:
        """Give an operation whose weights have no factors."""
        return getattr(self._builder, operation)

    def linear(
        self, x: Any, weights: Sequence[Weight], biases: Sequence[Weight] | None = None
    ) -> Any:
        """See ``Operations``."""
        scaled = None if biases is None else [self._scaled(bias) for bias in biases]
        return self._builder.linear(x, [self._scaled(weight) for weight in weights], scaled)

    def rms_norm(self, x: Any, weight: Weight, epsilon: float) -> Any:
        """See ``Operations``."""
        return self._builder.rms_norm(x, self._scaled(weight), epsilon)

    def add_rms_norm(self, residual: Any, x: Any, weight: Weight, epsilon: float) -> Any:
        """See ``Operations``."""
        return self._builder.add_rms_norm(residual, x, self._scaled(weight), epsilon)

    def layer_norm(self, x: Any, weight: Weight, bias: Weight, epsilon: float) -> Any:
        """See ``Operations``."""
        return self._builder.layer_norm(x, self._scaled(weight), self._scaled(bias), epsilon)

    def add_layer_norm(
        self, residual: Any, x: Any, weight: Weight, bias: Weight, epsilon: float
    ) -> Any:
        """See ``Operations``."""
        norm = self._scaled(weight), self._scaled(bias)
        return self._builder.add_layer_norm(residual, x, *norm, epsilon)

    def _scaled(self, weight: Weight) -> Weight:
        factors = self._factors.get(weight.name)
        if factors is None:
            return weight
        return replace(weight, source=Scaled(weight.source, factors))

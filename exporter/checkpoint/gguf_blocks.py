"""The block types of GGUF that are read, with their sizes and their decoding to float32.

The decoding is the `gguf` package's; it is loaded only when a GGUF file is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.checkpoint.errors import CheckpointError

DECODED_AT_ONCE = 1 << 20  # values; decoding takes several temporaries of this size


@dataclass(frozen=True)
class Block:
    """One storage type: rows are made of whole blocks."""

    name: str
    kind: int  # the number of the type in a GGUF file
    values: int  # in a block
    size: int  # bytes of a block
    quantized: bool


# Numbers and sizes: ggml's `ggml_type` and `block_*` structures.
BLOCKS = {
    block.kind: block
    for block in (
        Block("F32", 0, 1, 4, quantized=False),
        Block("F16", 1, 1, 2, quantized=False),
        Block("BF16", 30, 1, 2, quantized=False),
        Block("Q4_0", 2, 32, 18, quantized=True),
        Block("Q4_1", 3, 32, 20, quantized=True),
        Block("Q5_0", 6, 32, 22, quantized=True),
        Block("Q5_1", 7, 32, 24, quantized=True),
        Block("Q8_0", 8, 32, 34, quantized=True),
        Block("Q4_K", 12, 256, 144, quantized=True),
        Block("Q5_K", 13, 256, 176, quantized=True),
        Block("Q6_K", 14, 256, 210, quantized=True),
    )
}


def gguf_package() -> ModuleType:
    """Import the `gguf` package.

    Raises:
        CheckpointError: It is not installed.
    """
    try:
        import gguf  # noqa: PLC0415 - only a GGUF checkpoint needs it
    except ImportError as error:
        raise CheckpointError(
            "Reading GGUF needs the package gguf: `pip install 'edgewise[export]'`."
        ) from error
    return gguf


def type_name(kind: int) -> str:
    """Name a type's number as ggml does."""
    try:
        return str(gguf_package().GGMLQuantizationType(kind).name)
    except ValueError:
        return f"type {kind}"


def decode_rows(raw: NDArray[np.uint8], block: Block) -> NDArray[np.float32]:
    """Decode rows of blocks to float32, a bounded piece at a time.

    Args:
        raw: uint8 [rows, bytes per row].
        block: How the rows are stored.

    Returns:
        float32 [rows, values per row], bit for bit what ``gguf.dequantize`` gives.
    """
    gguf = gguf_package()
    kind = gguf.GGMLQuantizationType(block.kind)
    values_per_row = raw.shape[1] // block.size * block.values
    decoded = np.empty((raw.shape[0], values_per_row), np.float32)
    rows_at_once = max(1, DECODED_AT_ONCE // max(1, values_per_row))
    for first in range(0, raw.shape[0], rows_at_once):
        piece = raw[first : first + rows_at_once]
        # A row of zeros values has no block for the package to split.
        if piece.size:
            decoded[first : first + rows_at_once] = gguf.dequantize(piece, kind)
    return decoded

"""Weights and references that several quantizer tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


@dataclass
class ArraySource:
    """A tensor that lies in memory, and remembers the most rows it was asked for at once."""

    name: str
    values: Float32
    stored_type: str = "F32"
    raw: NDArray[np.uint8] | None = None
    most_rows: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def read(self, start: int = 0, stop: int | None = None) -> Float32:
        rows = self.values[start:stop]
        self.most_rows = max(self.most_rows, len(rows))
        return rows

    def read_blocks(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8] | None:
        return None if self.raw is None else self.raw[start:stop]


@pytest.fixture
def array_source() -> type[ArraySource]:
    """Makes a tensor of an array."""
    return ArraySource


@pytest.fixture
def gguf_source() -> Callable[..., ArraySource]:
    """Makes a tensor of random GGUF blocks: any codes, finite scales and minimums."""

    def make(name: str, stored_type: str, rows: int, columns: int, seed: int = 0) -> ArraySource:
        random = np.random.default_rng(seed)
        kind = gguf.GGMLQuantizationType[stored_type]
        values, size = gguf.GGML_QUANT_SIZES[kind]
        raw = random.integers(0, 256, (rows, columns // values, size), dtype=np.uint8)
        halves = 2 if stored_type in ("Q4_1", "Q5_1") else 1
        if stored_type in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
            numbers = random.standard_normal((rows, columns // values, halves)).astype("<f2")
            raw[..., : 2 * halves] = numbers.view(np.uint8)
        flat = raw.reshape(rows, -1)
        return ArraySource(name, gguf.dequantize(flat, kind), stored_type, flat)

    return make


@pytest.fixture
def heavy_tailed() -> Callable[..., Float32]:
    """Weights as trained ones are spread: Student's t with 5 degrees of freedom."""

    def make(rows: int, columns: int, seed: int = 0) -> Float32:
        random = np.random.default_rng(seed)
        return (0.02 * random.standard_t(5, (rows, columns))).astype(np.float32)

    return make

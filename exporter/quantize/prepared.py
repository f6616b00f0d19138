"""Matrices whose stored form was decided before the export comes to them.

Workflow: calibration makes a `PreparedMatrix` of a weight, with the format that this one is to have
and perhaps its codes; whoever writes weights (streaming.py) takes the codes from it.

Rule: codes wait in files and are mapped from there, so that they cost no memory meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.quantize.blockwise import BlockQuantized
from edgewise.exporter.quantize.channelwise import ChannelQuantized
from edgewise.exporter.quantize.recipes import WeightFormat
from edgewise.exporter.quantize.scale_search import Scales
from edgewise.exporter.quantize.streaming import WeightSource


@dataclass(frozen=True)
class PreparedMatrix:
    """A matrix with the format that it is to have; reads as the matrix itself.

    Attributes:
        name: Of the weight.
        source: The checkpoint's numbers.
        form: What it is stored as, whatever the recipe says.
        arrays: Files of its codes, scales and so on by attribute; empty where it is quantized by
            whoever writes it.
        scales_as: As `quantize_blockwise` took it.
    """

    name: str
    source: WeightSource
    form: WeightFormat
    arrays: tuple[tuple[str, Path], ...] = ()
    scales_as: Scales = "float32"

    @classmethod
    def stored(
        cls,
        name: str,
        source: WeightSource,
        form: WeightFormat,
        quantized: BlockQuantized | ChannelQuantized,
        scales_as: Scales,
        folder: Path,
    ) -> Self:
        """Put codes into a folder, in files that begin with the weight's name."""
        arrays = []
        for key, array in quantized.arrays().items():
            path = folder / f"{name}.{key}.npy"
            np.save(path, array, allow_pickle=False)
            arrays.append((key, path))
        return cls(name, source, form, tuple(arrays), scales_as)

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``WeightSource``."""
        return self.source.shape

    @property
    def stored_type(self) -> str:
        """See ``WeightSource``."""
        return self.source.stored_type

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """See ``WeightSource``."""
        return self.source.read(start, stop)

    def read_blocks(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8] | None:
        """See ``WeightSource``."""
        return self.source.read_blocks(start, stop)

    def prepared(
        self, form: WeightFormat, scales_as: Scales
    ) -> BlockQuantized | ChannelQuantized | None:
        """See ``PreparedSource``.

        Raises:
            ValueError: Codes were prepared, but for another format or other scales.
        """
        if not self.arrays:
            return None
        is_block = form.kind == "block"
        if form != self.form or (is_block and scales_as != self.scales_as):
            raise ValueError(
                f"{self.name} was prepared as {self.form} with scales as {self.scales_as}, and is "
                f"to be stored as {form} with scales as {scales_as}"
            )
        arrays: dict[str, Any] = {
            key: np.load(path, mmap_mode="r", allow_pickle=False) for key, path in self.arrays
        }
        if form.kind == "channel" and form.bits is not None:
            return ChannelQuantized(**arrays, bits=form.bits)
        if form.bits is None or form.block_size is None:
            raise ValueError(f"{self.name} was prepared as {form}, which has no codes")
        return BlockQuantized(form.bits, form.block_size, self.shape[1], **arrays)

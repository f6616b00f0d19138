"""From lazy tensors to stored arrays, a few rows at a time.

Workflow: `layout_of` tells what arrays a group of tensors will become before anything is read,
`quantized_rows` yields them in row chunks and `quantize_tensors` collects these into whole arrays;
what stays plain numbers is read with `read_rows`. A group is several matrices of the same input,
packed along their output channels (query, key and value; gate and up).

Rules:
- No more of a tensor than about 8 MiB in float32 exists at a time.
- The outcome does not depend on where the chunks are cut.
- "keep" passes Q4_0, Q4_1 and Q8_0 blocks without loss. Every other stored type becomes float32,
  which holds all of them exactly. Blocks of different types, or blocks beside plain numbers, do not
  pack: `can_pack` says so, and the caller emits them one by one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.quantize.blockwise import BlockQuantized, quantize_blockwise
from edgewise.exporter.quantize.channelwise import ChannelQuantized, quantize_channelwise
from edgewise.exporter.quantize.errors import QuantizeError
from edgewise.exporter.quantize.finite import check_weights
from edgewise.exporter.quantize.gguf_blocks import BLOCK_SIZE, LOSSLESS_TYPES, convert_blocks
from edgewise.exporter.quantize.packing import packed_length
from edgewise.exporter.quantize.recipes import WeightFormat
from edgewise.exporter.quantize.scale_search import Scales

CHUNK_BYTES = 8 << 20  # of float32 that are read at a time, at least one row

Quantized = TypeVar("Quantized", BlockQuantized, ChannelQuantized)

_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


class WeightSource(Protocol):
    """A tensor that is read when asked; one with a `name` is called by it in errors."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Row-major; a matrix is [output channels, input channels]."""
        ...

    @property
    def stored_type(self) -> str:
        """The checkpoint's type: "F32", "BF16", "Q4_1", ..."""
        ...

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows start:stop of axis 0, decoded to float32."""
        ...

    def read_blocks(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8] | None:
        """The raw GGUF blocks of these rows, uint8 [rows, bytes], or None where there are none."""
        ...


@runtime_checkable
class PreparedSource(Protocol):
    """A tensor that may bring along its codes."""

    def prepared(
        self, form: WeightFormat, scales_as: Scales
    ) -> BlockQuantized | ChannelQuantized | None:
        """All rows as they are to be stored, or None where they are yet to be quantized."""
        ...


@dataclass(frozen=True)
class Layout:
    """What a group of tensors becomes.

    Attributes:
        kind: "block" makes a `BlockQuantized`, "channel" a `ChannelQuantized`, the others stay
            plain numbers of that type.
        rows, columns: N of all tensors together and K.
        bits: of blocks and channels, else None.
        block_size: of blocks, else None.
        zero_points, minimums: whether the blocks carry these.
    """

    kind: Literal["float32", "float16", "block", "channel"]
    rows: int
    columns: int
    bits: int | None = None
    block_size: int | None = None
    zero_points: bool = False
    minimums: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        if self.kind == "block":
            return self.empty_blocks(rows=1).nbytes * self.rows
        if self.kind == "channel":
            return self.rows * (packed_length(self.columns, self.bits or 8) + 4)
        return self.rows * self.columns * (4 if self.kind == "float32" else 2)

    def empty_blocks(self, rows: int | None = None) -> BlockQuantized:
        """Blocks of this layout to be filled, `rows` of them or all.

        Raises:
            ValueError: the kind is not "block".
        """
        if self.bits is None or self.block_size is None:
            raise ValueError(f"a layout of {self.kind} has no blocks")
        count = self.rows if rows is None else rows
        blocks = -(-self.columns // self.block_size)
        return BlockQuantized(
            bits=self.bits,
            block_size=self.block_size,
            columns=self.columns,
            packed=np.empty((count, blocks, self.block_size * self.bits // 8), np.uint8),
            scales=np.empty((count, blocks), np.float32),
            zero_points=np.empty((count, packed_length(blocks, self.bits)), np.uint8)
            if self.zero_points
            else None,
            minimums=np.empty((count, blocks), np.float32) if self.minimums else None,
        )


def can_pack(sources: Sequence[WeightSource], form: WeightFormat) -> bool:
    """Whether tensors can become one matrix, their output channels one after the other.

    Args:
        sources: matrices; not empty.
        form: the format that they are to have.

    Returns:
        False where their input channels differ, and for "keep" also where not all become the same
        kind of block or all plain numbers.
    """
    first, *others = sources
    if any(len(source.shape) != 2 or source.shape[1] != first.shape[1] for source in others):
        return False
    if form.kind != "keep":
        return True
    return len({LOSSLESS_TYPES.get(source.stored_type) for source in sources}) == 1


def layout_of(sources: Sequence[WeightSource], form: WeightFormat) -> Layout:
    """What a group of tensors will become; nothing is read.

    Args:
        sources: matrices that `can_pack` accepts; not empty.
        form: the format that they are to have.

    Raises:
        ValueError: no matrices, or matrices that do not pack.
    """
    if any(len(source.shape) != 2 for source in sources) or not can_pack(sources, form):
        described = ", ".join(f"{source.stored_type} {source.shape}" for source in sources)
        raise ValueError(f"{described} do not pack into one matrix of format {form}")
    rows, columns = sum(source.shape[0] for source in sources), sources[0].shape[1]
    if form.kind == "block":
        return Layout(
            "block", rows, columns, form.bits, form.block_size, zero_points=not form.symmetric
        )
    if form.kind != "keep":
        return Layout(form.kind, rows, columns, form.bits)
    lossless = LOSSLESS_TYPES.get(sources[0].stored_type)
    if lossless is None:
        return Layout("float32", rows, columns)
    return Layout("block", rows, columns, lossless.bits, BLOCK_SIZE, minimums=lossless.has_minimum)


def quantized_rows(
    sources: Sequence[WeightSource],
    form: WeightFormat,
    *,
    importance: NDArray[np.float32] | None = None,
    scales_as: Scales = "float32",
) -> Iterator[BlockQuantized | ChannelQuantized]:
    """Quantizes a group of tensors chunk by chunk.

    Args:
        sources: matrices that `can_pack` accepts.
        form: a format whose `layout_of` is "block" or "channel".
        importance: float32 [K], as `quantize_blockwise` takes it.
        scales_as: as `quantize_blockwise` takes it; blocks of "keep" have their own.

    Yields:
        The stored rows in order, all of the layout that `layout_of` gives.

    Raises:
        QuantizeError: weights that are not finite or too large.
        ValueError: the tensors stay plain numbers or do not pack.
    """
    layout = layout_of(sources, form)
    if layout.kind not in ("block", "channel"):
        raise ValueError(f"tensors of layout {layout.kind} are read, not quantized")
    for source in sources:
        name = _name(source)
        prepared = source.prepared(form, scales_as) if isinstance(source, PreparedSource) else None
        for start, stop in _cuts(source):
            if prepared is not None:
                yield prepared.rows(start, stop)
            elif form.kind == "keep":
                raw = source.read_blocks(start, stop)
                if raw is None:
                    raise ValueError(f"{name} of type {source.stored_type} gives no blocks")
                yield convert_blocks(raw, source.stored_type, name=name)
            elif layout.bits is None or layout.block_size is None:
                yield quantize_channelwise(
                    source.read(start, stop), bits=layout.bits or 8, name=name, first_row=start
                )
            else:
                yield quantize_blockwise(
                    source.read(start, stop),
                    bits=layout.bits,
                    block_size=layout.block_size,
                    symmetric=not layout.zero_points,
                    importance=importance,
                    scales_as=scales_as,
                    name=name,
                    first_row=start,
                )


def quantize_tensors(
    sources: Sequence[WeightSource],
    form: WeightFormat,
    *,
    importance: NDArray[np.float32] | None = None,
    scales_as: Scales = "float32",
) -> BlockQuantized | ChannelQuantized | None:
    """Quantizes a group of tensors into whole arrays.

    Beside its result it takes about 32 MiB, whatever the size of the tensors.

    Args:
        sources: matrices that `can_pack` accepts.
        form: the format that they are to have.
        importance: float32 [K], as `quantize_blockwise` takes it.
        scales_as: as `quantize_blockwise` takes it; blocks of "keep" have their own.

    Returns:
        The quantized matrix, or None where `layout_of` gives plain numbers: read these with
        `read_rows`.

    Raises:
        QuantizeError: weights that are not finite or too large.
        ValueError: the tensors do not pack.
    """
    layout = layout_of(sources, form)
    if layout.kind == "block":
        rows = quantized_rows(sources, form, importance=importance, scales_as=scales_as)
        return _collect(layout.empty_blocks(), rows)
    if layout.kind == "channel":
        whole = ChannelQuantized(
            np.empty((layout.rows, layout.columns), np.int8),
            np.empty(layout.rows, np.float32),
            layout.bits or 8,
        )
        return _collect(whole, quantized_rows(sources, form, importance=importance))
    return None


def read_rows(
    source: WeightSource, dtype: type[np.float32] | type[np.float16] = np.float32
) -> Iterator[NDArray[np.float32 | np.float16]]:
    """Reads a tensor of any rank as plain numbers, chunk by chunk.

    Args:
        source: the tensor.
        dtype: np.float32, exact for every stored type, or np.float16, rounded to nearest.

    Yields:
        Rows in order, as `dtype`.

    Raises:
        QuantizeError: weights that are not finite, or too large for the type.
    """
    name = _name(source)
    for start, stop in _cuts(source):
        chunk = source.read(start, stop)
        check_weights(chunk, name, start)
        if dtype is np.float32:
            yield chunk
            continue
        with np.errstate(over="ignore"):
            half = chunk.astype(np.float16)
        if not np.isfinite(half).all():
            raise QuantizeError(
                f"{name} holds weights up to {np.abs(chunk).max():.6g}, float16 ends at "
                f"{_LARGEST_FLOAT16:g}. Choose fp32 or an int format for its role."
            )
        yield half


def _cuts(source: WeightSource) -> Iterator[tuple[int, int]]:
    rows = source.shape[0]
    row_bytes = 4 * max(1, int(np.prod(source.shape[1:])))
    at_once = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, rows, at_once):
        yield start, min(start + at_once, rows)


def _name(source: WeightSource) -> str:
    return str(getattr(source, "name", "a tensor"))


def _collect(whole: Quantized, parts: Iterator[BlockQuantized | ChannelQuantized]) -> Quantized:
    start = 0
    arrays = whole.arrays()
    for part in parts:
        stop = start + part.shape[0]
        for name, array in part.arrays().items():
            arrays[name][start:stop] = array
        start = stop
    return whole

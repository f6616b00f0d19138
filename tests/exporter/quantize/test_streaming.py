import tracemalloc

import numpy as np
import pytest

from edgewise.exporter.quantize import streaming
from edgewise.exporter.quantize.blockwise import BlockQuantized, quantize_blockwise
from edgewise.exporter.quantize.channelwise import ChannelQuantized, quantize_channelwise
from edgewise.exporter.quantize.errors import QuantizeError
from edgewise.exporter.quantize.recipes import FORMAT_NAMES, WeightFormat
from edgewise.exporter.quantize.streaming import (
    can_pack,
    layout_of,
    quantize_tensors,
    quantized_rows,
    read_rows,
)

quantizing_formats = pytest.mark.parametrize(
    "text", [text for text in FORMAT_NAMES if text.startswith("int")]
)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 1000)


def same(left, right):
    return {name: array.tobytes() for name, array in left.arrays().items()} == {
        name: array.tobytes() for name, array in right.arrays().items()
    }


@quantizing_formats
@pytest.mark.usefixtures("small_chunks")
def test_a_pack_in_chunks_is_what_the_whole_matrix_becomes(text, array_source, heavy_tailed):
    form = WeightFormat.parse(text)
    sources = [array_source(f"t{rows}", heavy_tailed(rows, 72, rows)) for rows in (7, 1, 12)]
    importance = np.random.default_rng(0).random(72).astype(np.float32)
    whole = np.concatenate([source.values for source in sources])
    if form.kind == "channel":
        expected = quantize_channelwise(whole, bits=form.bits)
    else:
        expected = quantize_blockwise(
            whole,
            bits=form.bits,
            block_size=form.block_size,
            symmetric=form.symmetric,
            importance=importance,
        )
    found = quantize_tensors(sources, form, importance=importance)
    layout = layout_of(sources, form)
    assert same(found, expected)
    assert found.shape == (layout.rows, layout.columns) == (20, 72)
    assert found.nbytes == layout.nbytes
    assert max(source.most_rows for source in sources) == 1000 // (72 * 4)
    assert [part.shape[0] for part in quantized_rows(sources, form)] == [3, 3, 1, 1, 3, 3, 3, 3]


@pytest.mark.parametrize("stored_type", ["Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.usefixtures("small_chunks")
def test_keep_passes_blocks_without_loss(stored_type, gguf_source):
    form = WeightFormat.parse("keep")
    sources = [gguf_source(f"t{rows}", stored_type, rows, 64, seed=rows) for rows in (9, 5)]
    assert can_pack(sources, form)
    found = quantize_tensors(sources, form)
    assert isinstance(found, BlockQuantized)
    assert found.nbytes == layout_of(sources, form).nbytes
    expected = np.concatenate([source.values for source in sources])
    assert found.dequantize().tobytes() == expected.tobytes()
    assert all(source.most_rows == 0 for source in sources)  # no weight was decoded


@pytest.mark.parametrize("stored_type", ["F32", "F16", "BF16", "Q5_0", "Q5_1", "Q4_K", "Q6_K"])
def test_keep_leaves_all_other_types_as_plain_float32(stored_type, array_source, heavy_tailed):
    form = WeightFormat.parse("keep")
    sources = [array_source("t", heavy_tailed(3, 256), stored_type)]
    layout = layout_of(sources, form)
    assert layout.kind == "float32"
    assert layout.nbytes == 3 * 256 * 4
    assert quantize_tensors(sources, form) is None
    assert np.array_equal(np.concatenate(list(read_rows(sources[0]))), sources[0].values)
    with pytest.raises(ValueError, match="are read, not quantized"):
        next(quantized_rows(sources, form))


def test_what_packs(array_source, gguf_source, heavy_tailed):
    keep, int4 = WeightFormat.parse("keep"), WeightFormat.parse("int4-block32")
    q4_0, q4_1, q8_0 = (gguf_source(kind, kind, 4, 64) for kind in ("Q4_0", "Q4_1", "Q8_0"))
    half, brain = (array_source(kind, heavy_tailed(4, 64), kind) for kind in ("F16", "BF16"))
    assert can_pack([q4_0, q4_0], keep)
    assert can_pack([half, brain], keep)
    for pair in ([q4_0, q4_1], [q4_1, q8_0], [q4_0, half]):
        assert not can_pack(pair, keep)
        assert can_pack(pair, int4)
        with pytest.raises(ValueError, match="do not pack"):
            layout_of(pair, keep)
    narrow = array_source("narrow", heavy_tailed(4, 32))
    assert not can_pack([q4_0, narrow], int4)
    with pytest.raises(ValueError, match="do not pack"):
        layout_of([array_source("norm", heavy_tailed(1, 64)[0])], int4)


@pytest.mark.parametrize(("text", "size"), [("fp32", 4), ("fp16", 2)])
def test_plain_formats_are_read(text, size, array_source, heavy_tailed):
    sources = [array_source("t", heavy_tailed(4, 64))]
    form = WeightFormat.parse(text)
    assert layout_of(sources, form).nbytes == 4 * 64 * size
    assert quantize_tensors(sources, form) is None
    with pytest.raises(ValueError, match="has no blocks"):
        layout_of(sources, form).empty_blocks()


@pytest.mark.usefixtures("small_chunks")
def test_reading_rows_of_any_rank(array_source, heavy_tailed):
    for values in (
        heavy_tailed(50, 40),
        heavy_tailed(1, 700)[0],
        heavy_tailed(30, 40).reshape(30, 4, 10),
    ):
        source = array_source("t", values)
        chunks = list(read_rows(source))
        assert len(chunks) > 1
        assert np.array_equal(np.concatenate(chunks), values)
        halves = list(read_rows(source, np.float16))
        assert np.array_equal(np.concatenate(halves), values.astype(np.float16))


@pytest.mark.usefixtures("small_chunks")
def test_damaged_tensors_are_refused_by_name_and_place(array_source, heavy_tailed):
    values = heavy_tailed(40, 50)
    values[31, 4] = np.nan
    source = array_source("model.layers.3.mlp.up_proj.weight", values)
    place = r"model\.layers\.3\.mlp\.up_proj\.weight holds nan at \[31, 4\]"
    for text in ("int4-block32", "int8-block64-asymmetric", "int8"):
        with pytest.raises(QuantizeError, match=place):
            quantize_tensors([source], WeightFormat.parse(text))
    with pytest.raises(QuantizeError, match=place):
        list(read_rows(source))


def test_float16_ends_at_65504(array_source):
    source = array_source("t", np.array([[1, 65504], [70000, 0]], np.float32))
    with pytest.raises(QuantizeError, match="t holds weights up to 70000, float16 ends at 65504"):
        list(read_rows(source, np.float16))


def test_blocks_that_are_promised_must_be_there(array_source, heavy_tailed):
    source = array_source("t", heavy_tailed(4, 64), "Q4_0")
    with pytest.raises(ValueError, match="t of type Q4_0 gives no blocks"):
        quantize_tensors([source], WeightFormat.parse("keep"))


class MadeUpSource:
    """A matrix larger than the memory that may be taken, made when read."""

    name = "large"
    shape = (16384, 2048)
    stored_type = "F16"

    def read(self, start=0, stop=None):
        rows = range(self.shape[0])[start:stop]
        row = np.random.default_rng(0).standard_normal(self.shape[1]).astype(np.float32)
        return np.outer(np.arange(rows.start, rows.stop, dtype=np.float32), row)

    def read_blocks(self, start=0, stop=None):
        return None


@pytest.mark.parametrize("text", ["int8", "int4-block128", "int4-block32-asymmetric"])
def test_memory_is_bounded_whatever_the_size(text, monkeypatch):
    monkeypatch.setattr(
        "edgewise.exporter.quantize.scale_search.BlockFitter._searched",
        lambda self, low, high, zero_point: (low, zero_point),  # its time, not its memory
    )
    tracemalloc.start()
    found = quantize_tensors([MadeUpSource()], WeightFormat.parse(text))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found, BlockQuantized | ChannelQuantized)
    assert peak - found.nbytes < 40 << 20

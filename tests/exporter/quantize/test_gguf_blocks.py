import gguf
import numpy as np
import pytest

from edgewise.exporter.quantize.errors import QuantizeError
from edgewise.exporter.quantize.gguf_blocks import LOSSLESS_TYPES, convert_blocks

every_type = pytest.mark.parametrize("stored_type", list(LOSSLESS_TYPES))


@every_type
def test_random_blocks_decode_as_ggml_decodes_them(stored_type, gguf_source):
    source = gguf_source("random", stored_type, 37, 160)
    quantized = convert_blocks(source.raw, stored_type)
    assert quantized.shape == (37, 160)
    assert quantized.dequantize().tobytes() == source.values.tobytes()
    assert quantized.zero_points is None
    assert (quantized.minimums is not None) == (stored_type == "Q4_1")


@every_type
def test_every_code_under_extreme_scales_decodes_as_ggml_decodes_it(stored_type):
    kind = gguf.GGMLQuantizationType[stored_type]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    halves = 2 if stored_type == "Q4_1" else 1
    extremes = np.array([0, -0.0, 6e-8, -6e-8, 1e-4, -0.1, 1, 65504, -65504], "<f2")
    pairs = np.array([(first, second) for first in extremes for second in extremes])[:, :halves]
    code_bytes = np.arange(256, dtype=np.uint8).reshape(-1, size - 2 * halves)
    raw = np.empty((len(pairs), len(code_bytes), size), np.uint8)
    raw[..., : 2 * halves] = np.ascontiguousarray(pairs).view(np.uint8)[:, np.newaxis]
    raw[..., 2 * halves :] = code_bytes
    flat = raw.reshape(len(pairs), -1)
    expected = gguf.dequantize(flat, kind)
    assert convert_blocks(flat, stored_type).dequantize().tobytes() == expected.tobytes()


@every_type
def test_what_gguf_quantized_decodes_as_ggml_decodes_it(stored_type, heavy_tailed):
    kind = gguf.GGMLQuantizationType[stored_type]
    raw = gguf.quantize(heavy_tailed(8, 64), kind)
    quantized = convert_blocks(raw, stored_type)
    assert quantized.dequantize().tobytes() == gguf.dequantize(raw, kind).tobytes()


def test_halves_of_a_block_become_neighbours():
    raw = np.zeros((1, 18), np.uint8)
    raw[0, :2] = np.array([1], "<f2").view(np.uint8)
    raw[0, 2:] = [low + 16 * (15 - low) for low in range(16)]
    quantized = convert_blocks(raw, "Q4_0")
    assert quantized.codes()[0, 0].tolist() == [*range(16), *range(15, -1, -1)]
    assert quantized.packed[0, 0].tolist() == [
        *(16 * (even + 1) + even for even in range(0, 16, 2)),
        *(16 * (odd - 1) + odd for odd in range(15, 0, -2)),
    ]


@every_type
def test_rows_convert_alone_as_they_do_together(stored_type, gguf_source):
    source = gguf_source("random", stored_type, 5, 64)
    whole = convert_blocks(source.raw, stored_type)
    for row in range(5):
        alone = convert_blocks(source.raw[row : row + 1], stored_type)
        for name, array in alone.arrays().items():
            assert array.tobytes() == whole.arrays()[name][row].tobytes()


@every_type
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_damaged_scale_is_refused_by_name(stored_type, value, gguf_source):
    raw = gguf_source("random", stored_type, 4, 64).raw.copy()
    raw[2, :2] = np.array([value], "<f2").view(np.uint8)
    with pytest.raises(QuantizeError, match=r"blk\.weight holds a scale .* row 2"):
        convert_blocks(raw, stored_type, name="blk.weight")


def test_a_damaged_minimum_is_refused(gguf_source):
    raw = gguf_source("random", "Q4_1", 4, 64).raw.copy()
    raw[1, 2:4] = np.array([-np.inf], "<f2").view(np.uint8)
    with pytest.raises(QuantizeError, match=r"minimum .* row 1"):
        convert_blocks(raw, "Q4_1")


def test_other_types_and_broken_rows_are_refused():
    with pytest.raises(ValueError, match="Q5_0 does not convert"):
        convert_blocks(np.zeros((1, 22), np.uint8), "Q5_0")
    with pytest.raises(ValueError, match="multiples of 18 bytes"):
        convert_blocks(np.zeros((1, 20), np.uint8), "Q4_0")

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.quantize.blockwise import BlockQuantized, quantize_blockwise
from edgewise.exporter.quantize.errors import QuantizeError

FORMS = [
    (bits, block_size, symmetric)
    for bits in (4, 8)
    for block_size in (32, 64, 128)
    for symmetric in (True, False)
]
every_form = pytest.mark.parametrize(("bits", "block_size", "symmetric"), FORMS)


def decode_one_by_one(quantized):
    """Follows the documented layout with scalar loops and nothing else."""
    rows, columns = quantized.shape
    weights = np.empty((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            block, inside = divmod(column, quantized.block_size)
            codes = quantized.packed[row, block]
            if quantized.bits == 8:
                code = int(codes[inside])
                zero_point = 128
                if quantized.zero_points is not None:
                    zero_point = int(quantized.zero_points[row, block])
            else:
                code = (int(codes[inside // 2]) >> (4 * (inside % 2))) & 15
                zero_point = 8
                if quantized.zero_points is not None:
                    byte = int(quantized.zero_points[row, block // 2])
                    zero_point = (byte >> (4 * (block % 2))) & 15
            weights[row, column] = np.float32(code - zero_point) * quantized.scales[row, block]
    return weights


def round_one_by_one(weights, bits, block_size, *, symmetric):
    """Round to nearest as the documentation defines it, in scalar loops."""
    top, middle = (1 << bits) - 1, 1 << (bits - 1)
    rows, columns = weights.shape
    result = np.empty_like(weights)
    for row in range(rows):
        for start in range(0, columns, block_size):
            block = weights[row, start : start + block_size]
            low, high = min(block), max(block)
            if symmetric:
                scale = np.float32((high if high >= -low else low) / np.float32(-middle))
                zero_point = middle
            else:
                low, high = min(low, np.float32(0)), max(high, np.float32(0))
                scale = np.float32((high - low) / np.float32(top))
                zero_point = 0 if scale == 0 else min(top, int(np.rint(-low / scale)))
            for index, value in enumerate(block):
                level = 0 if scale == 0 else int(np.rint(value / scale))
                level = min(max(level, -zero_point), top - zero_point)
                result[row, start + index] = np.float32(level) * scale
    return result


@every_form
def test_the_stored_layout_decodes_one_by_one(bits, block_size, symmetric, heavy_tailed):
    weights = heavy_tailed(3, 5 * block_size)
    quantized = quantize_blockwise(weights, bits=bits, block_size=block_size, symmetric=symmetric)
    assert quantized.packed.shape == (3, 5, block_size * bits // 8)
    assert quantized.scales.shape == (3, 5)
    if symmetric:
        assert quantized.zero_points is None
    else:
        assert quantized.zero_points.shape == (3, 3 if bits == 4 else 5)
    assert np.array_equal(quantized.dequantize(), decode_one_by_one(quantized))
    assert quantized.nbytes == sum(array.nbytes for array in quantized.arrays().values())


@every_form
def test_round_to_nearest_against_scalar_loops(bits, block_size, symmetric, heavy_tailed):
    weights = heavy_tailed(3, 2 * block_size, seed=1)
    quantized = quantize_blockwise(
        weights, bits=bits, block_size=block_size, symmetric=symmetric, search=False
    )
    expected = round_one_by_one(weights, bits, block_size, symmetric=symmetric)
    assert np.array_equal(quantized.dequantize(), expected)


@every_form
@pytest.mark.parametrize("search", [False, True])
def test_values_on_the_grid_come_back_bit_for_bit(bits, block_size, symmetric, search):
    random = np.random.default_rng(2)
    top, middle = (1 << bits) - 1, 1 << (bits - 1)
    codes = random.integers(0, top + 1, (4, 3, block_size))
    codes[..., 5] = 0  # both ends are taken, so the covering grid is this one
    codes[..., 9] = top
    zero_points = np.full((4, 3, 1), middle)
    if not symmetric:
        zero_points = random.integers(0, top + 1, (4, 3, 1))
    scales = np.exp2(random.integers(-9, 3, (4, 3, 1))).astype(np.float32)
    signs = random.choice([-1.0, 1.0], (4, 3, 1)).astype(np.float32) if symmetric else 1
    weights = ((codes - zero_points) * scales * signs).astype(np.float32).reshape(4, -1)
    quantized = quantize_blockwise(
        weights, bits=bits, block_size=block_size, symmetric=symmetric, search=search
    )
    assert np.array_equal(quantized.dequantize(), weights)


@every_form
def test_a_last_block_that_is_not_full_is_padded_with_zeros(
    bits, block_size, symmetric, heavy_tailed
):
    weights = heavy_tailed(4, 2 * block_size + 7)
    padded = np.zeros((4, 3 * block_size), np.float32)
    padded[:, : weights.shape[1]] = weights
    form = {"bits": bits, "block_size": block_size, "symmetric": symmetric}
    quantized = quantize_blockwise(weights, **form)
    whole = quantize_blockwise(padded, **form)
    assert quantized.shape == weights.shape
    for name, array in whole.arrays().items():
        assert np.array_equal(quantized.arrays()[name], array)
    assert np.array_equal(quantized.dequantize(), whole.dequantize()[:, : weights.shape[1]])
    assert not whole.dequantize()[:, weights.shape[1] :].any()


@every_form
def test_the_bytes_do_not_depend_on_how_rows_are_cut(bits, block_size, symmetric, heavy_tailed):
    weights = heavy_tailed(70, 5 * block_size)
    form = {"bits": bits, "block_size": block_size, "symmetric": symmetric}
    importance = np.random.default_rng(0).random(5 * block_size).astype(np.float32)
    whole = quantize_blockwise(weights, **form, importance=importance)
    for start, stop in ((0, 1), (1, 40), (40, 70)):
        part = quantize_blockwise(weights[start:stop], **form, importance=importance)
        for name, array in part.arrays().items():
            assert array.tobytes() == whole.arrays()[name][start:stop].tobytes()
            assert array.tobytes() == whole.rows(start, stop).arrays()[name].tobytes()


def test_memory_order_does_not_matter(heavy_tailed):
    weights = heavy_tailed(64, 96)
    straight = quantize_blockwise(weights, bits=4, block_size=32, symmetric=True)
    other = quantize_blockwise(np.asfortranarray(weights), bits=4, block_size=32, symmetric=True)
    assert straight.packed.tobytes() == other.packed.tobytes()
    assert straight.scales.tobytes() == other.scales.tobytes()


@every_form
@pytest.mark.parametrize("search", [False, True])
def test_zeros_stay_exactly_zero(bits, block_size, symmetric, search):
    quantized = quantize_blockwise(
        np.zeros((2, block_size), np.float32),
        bits=bits,
        block_size=block_size,
        symmetric=symmetric,
        search=search,
    )
    assert not quantized.dequantize().any()
    assert np.isfinite(quantized.scales).all()


@settings(max_examples=30, deadline=None)
@given(
    value=st.floats(width=32, min_value=2.0**-120, max_value=2.0**119),
    sign=st.sampled_from([-1, 1]),
    symmetric=st.booleans(),
    bits=st.sampled_from([4, 8]),
)
def test_a_constant_block_comes_back_to_the_last_place(value, sign, symmetric, bits):
    weights = np.full((1, 32), sign * np.float32(value), np.float32)
    quantized = quantize_blockwise(weights, bits=bits, block_size=32, symmetric=symmetric)
    assert np.allclose(quantized.dequantize(), weights, rtol=2.0**-22, atol=0)


any_weights = arrays.arrays(
    np.float32,
    (2, 64),
    elements=st.floats(width=32, min_value=-(2.0**119), max_value=2.0**119, allow_subnormal=True),
)


@settings(max_examples=100, deadline=None)
@given(
    weights=any_weights, symmetric=st.booleans(), bits=st.sampled_from([4, 8]), search=st.booleans()
)
def test_no_weight_is_off_by_more_than_the_grid_allows(weights, symmetric, bits, search):
    quantized = quantize_blockwise(
        weights, bits=bits, block_size=32, symmetric=symmetric, search=search
    )
    back = quantized.dequantize()
    assert np.isfinite(back).all()
    if search:
        return  # may clip an outlier for the others' good; bounded in the tests of the search
    blocks = weights.reshape(2, 2, 32)
    scales = np.abs(quantized.scales.astype(np.float64))
    # Half a step, a whole one at the end of a symmetric range that does not reach as far, and
    # where a subnormal scale was rounded the whole range times what it lost.
    steps = 1.0 if symmetric else 0.5
    allowed = steps * scales + (1 << bits) * 2.0**-149 + np.abs(blocks).max(axis=2) * 2.0**-20
    error = np.abs(back.reshape(2, 2, 32).astype(np.float64) - blocks).max(axis=2)
    assert (error <= allowed).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**120, -3e38])
@pytest.mark.parametrize("symmetric", [True, False])
def test_what_no_scale_can_hold_is_refused_by_name_and_place(value, symmetric):
    weights = np.zeros((5, 40), np.float32)
    weights[3, 33] = value
    with pytest.raises(QuantizeError, match=r"layer\.weight holds .* at \[103, 33\]") as caught:
        quantize_blockwise(
            weights,
            bits=4,
            block_size=32,
            symmetric=symmetric,
            name="layer.weight",
            first_row=100,
        )
    assert isinstance(caught.value, EdgewiseError)


def test_a_bad_row_is_named_beyond_the_first_chunk():
    weights = np.zeros((3000, 512), np.float32)
    weights[2999, 1] = np.nan
    with pytest.raises(QuantizeError, match=r"\[2999, 1\]"):
        quantize_blockwise(weights, bits=4, block_size=32, symmetric=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_importance_must_be_finite_and_not_negative(value):
    importance = np.ones(32, np.float32)
    importance[4] = value
    with pytest.raises(QuantizeError, match=r"importance .* layer\.weight"):
        quantize_blockwise(
            np.ones((1, 32), np.float32),
            bits=4,
            block_size=32,
            symmetric=True,
            importance=importance,
            name="layer.weight",
        )


def test_arguments_out_of_range_are_refused():
    weights = np.ones((1, 32), np.float32)
    with pytest.raises(ValueError, match="bits=3"):
        quantize_blockwise(weights, bits=3, block_size=32, symmetric=True)
    with pytest.raises(ValueError, match="block_size=48"):
        quantize_blockwise(weights, bits=4, block_size=48, symmetric=True)
    with pytest.raises(ValueError, match="must be \\[N, K\\]"):
        quantize_blockwise(weights[0], bits=4, block_size=32, symmetric=True)
    with pytest.raises(ValueError, match="must be \\(32,\\)"):
        quantize_blockwise(
            weights, bits=4, block_size=32, symmetric=True, importance=np.ones(31, np.float32)
        )


def test_no_rows_are_no_fault():
    quantized = quantize_blockwise(
        np.empty((0, 64), np.float32), bits=4, block_size=32, symmetric=False
    )
    assert quantized.shape == (0, 64)
    assert quantized.dequantize().shape == (0, 64)


def test_arrays_that_do_not_belong_together_are_refused():
    packed, scales = np.zeros((2, 3, 16), np.uint8), np.ones((2, 3), np.float32)
    BlockQuantized(4, 32, 96, packed, scales)
    with pytest.raises(ValueError, match="packed is"):
        BlockQuantized(8, 32, 96, packed, scales)
    with pytest.raises(ValueError, match="scales is"):
        BlockQuantized(4, 32, 97, packed, scales)
    with pytest.raises(ValueError, match="zero_points is"):
        BlockQuantized(4, 32, 96, packed, scales, np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="never both"):
        BlockQuantized(4, 32, 96, packed, scales, np.zeros((2, 2), np.uint8), scales)


def test_minimums_are_added_after_the_product():
    packed = np.arange(16, dtype=np.uint8).reshape(1, 1, 16)
    quantized = BlockQuantized(
        4,
        32,
        32,
        packed,
        np.float32([[0.1]]),
        minimums=np.float32([[-0.7]]),
    )
    codes = [nibble for byte in range(16) for nibble in (byte & 15, byte >> 4)]
    expected = [np.float32(code) * np.float32(0.1) + np.float32(-0.7) for code in codes]
    assert quantized.dequantize().tolist() == [[float(value) for value in expected]]
    with pytest.raises(ValueError, match="no zero points"):
        quantized.unpacked_zero_points()


@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_scales_for_xnnpack_are_positive_and_exact_in_both_half_types(block_size):
    generator = np.random.default_rng(3)
    weights = generator.standard_t(4, (40, 4 * block_size)).astype(np.float32) * np.float32(0.03)
    weights[0], weights[1] = 0, weights[1] * 1e-6
    quantized = quantize_blockwise(
        weights, bits=4, block_size=block_size, symmetric=True, scales_as="positive bfloat16"
    )
    scales = quantized.scales
    assert (scales > 0).all()
    assert np.array_equal(scales, scales.astype(np.float16).astype(np.float32))
    assert not (scales.view(np.uint32) & 0xFFFF).any()
    assert not quantized.dequantize()[0].any()
    free = quantize_blockwise(weights, bits=4, block_size=block_size, symmetric=True)
    errors = [
        np.square((kind.dequantize() - weights)[2:]).sum(dtype=np.float64)
        for kind in (quantized, free)
    ]
    # The eighth code below zero can not serve the larger side of every block: measured at 1.14.
    assert errors[0] < 1.2 * errors[1]

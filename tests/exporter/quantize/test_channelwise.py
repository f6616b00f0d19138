import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgewise.exporter.quantize.channelwise import ChannelQuantized, quantize_channelwise
from edgewise.exporter.quantize.errors import QuantizeError


def squared_errors(quantized, weights):
    return ((quantized.dequantize().astype(np.float64) - weights) ** 2).sum(axis=1)


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (4, 7)])
def test_without_search_it_is_the_largest_magnitude_by_the_largest_code(heavy_tailed, bits, most):
    weights = heavy_tailed(7, 130)
    quantized = quantize_channelwise(weights, bits=bits, search=False)
    for row, values, scale in zip(weights, quantized.values, quantized.scales, strict=True):
        assert scale == max(abs(value) for value in row) / np.float32(most)
        assert values.tolist() == [int(np.rint(value / scale)) for value in row]


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize(("bits", "most"), [(8, 127), (4, 7)])
def test_values_on_the_grid_come_back_bit_for_bit(search, bits, most):
    random = np.random.default_rng(0)
    codes = random.integers(-most, most + 1, (16, 300)).astype(np.int8)
    codes[:, 7] = random.choice([-most, most], 16)
    scales = np.exp2(random.integers(-12, 4, 16)).astype(np.float32)
    weights = ChannelQuantized(codes, scales).dequantize()
    quantized = quantize_channelwise(weights, bits=bits, search=search)
    assert np.array_equal(quantized.values, codes)
    assert np.array_equal(quantized.scales, scales)


@settings(max_examples=80, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=70),
        elements=st.one_of(
            st.floats(width=32, min_value=-(2.0**119), max_value=2.0**119),
            st.floats(width=32, min_value=-1, max_value=1),
        ),
    ),
    st.sampled_from([(8, -127), (4, -8)]),
)
def test_never_worse_than_the_largest_magnitude(weights, precision):
    bits, least = precision
    plain = squared_errors(quantize_channelwise(weights, bits=bits, search=False), weights)
    quantized = quantize_channelwise(weights, bits=bits)
    largest = np.abs(weights.astype(np.float64)).max() ** 2
    assert np.isfinite(quantized.scales).all()
    assert quantized.values.min() >= least
    assert quantized.values.max() < -least + (bits == 8)
    assert (squared_errors(quantized, weights) <= plain * (1 + 1e-5) + 2.0**-290 * largest).all()


def test_takes_a_little_off_the_error_and_more_off_rows_with_outliers(heavy_tailed):
    weights = heavy_tailed(64, 1024)
    plain = squared_errors(quantize_channelwise(weights, search=False), weights)
    found = squared_errors(quantize_channelwise(weights), weights)
    assert found.sum() < 0.99 * plain.sum()
    normal = np.random.default_rng(0).standard_normal((64, 4096)).astype(np.float32)
    normal[:, 3] = 7
    plain = squared_errors(quantize_channelwise(normal, search=False), normal)
    assert squared_errors(quantize_channelwise(normal), normal).sum() < 0.98 * plain.sum()


def test_four_bits_come_within_a_hundredth_of_the_best_scale_for_every_row():
    weights = np.random.default_rng(0).standard_normal((12, 400)).astype(np.float32)
    found = squared_errors(quantize_channelwise(weights, bits=4), weights)
    scales = np.linspace(0.05, 0.6, 1000)
    for row, error in zip(weights.astype(np.float64), found, strict=True):
        codes = np.clip(np.rint(row / scales[:, None]), -8, 7)
        assert error < 1.01 * ((codes * scales[:, None] - row) ** 2).sum(axis=1).min()


def test_four_bits_are_stored_as_twos_complement_the_even_one_in_the_low_nibble():
    values = np.asarray([[-8, 7, -1, 0], [1, 2, 3, -3]], np.int8)
    quantized = ChannelQuantized(values, np.ones(2, np.float32), bits=4)
    assert quantized.packed.tolist() == [[0x78, 0x0F], [0x21, 0xD3]]
    assert quantized.nbytes == 2 * 2 + 2 * 4
    assert quantized.rows(1, 2).packed.tolist() == [[0x21, 0xD3]]


def test_the_bytes_do_not_depend_on_how_rows_are_cut(heavy_tailed):
    weights = heavy_tailed(300, 333)
    whole = quantize_channelwise(weights)
    for start, stop in ((0, 1), (1, 150), (150, 300)):
        part = quantize_channelwise(weights[start:stop])
        assert part.values.tobytes() == whole.rows(start, stop).values.tobytes()
        assert part.scales.tobytes() == whole.rows(start, stop).scales.tobytes()


def test_zeros_stay_zero_and_subnormals_stay_finite():
    weights = np.zeros((3, 40), np.float32)
    weights[1, 0] = 1e-45
    weights[2] = 1e-40
    quantized = quantize_channelwise(weights)
    assert not quantized.values[0].any()
    assert np.isfinite(quantized.dequantize()).all()
    assert np.allclose(quantized.dequantize()[2], weights[2], rtol=0.01, atol=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**120])
def test_what_no_scale_can_hold_is_refused_by_name_and_place(value):
    weights = np.zeros((5, 3), np.float32)
    weights[4, 2] = value
    with pytest.raises(QuantizeError, match=r"head\.weight holds .* at \[14, 2\]"):
        quantize_channelwise(weights, name="head.weight", first_row=10)


def test_arrays_that_do_not_belong_together_are_refused():
    values, scales = np.zeros((3, 4), np.int8), np.ones(3, np.float32)
    assert ChannelQuantized(values, scales).shape == (3, 4)
    assert ChannelQuantized(values, scales).nbytes == 24
    with pytest.raises(ValueError, match="must be int8"):
        ChannelQuantized(values.astype(np.uint8), scales)
    with pytest.raises(ValueError, match=r"\[N, K\] and \[N\]"):
        ChannelQuantized(values, scales[:2])
    with pytest.raises(ValueError, match="4 or 8 bits, not 2"):
        quantize_channelwise(np.ones((3, 4), np.float32), bits=2)
    with pytest.raises(ValueError, match=r"must be \[N, K\]"):
        quantize_channelwise(np.ones(3, np.float32))

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.exporter.quantize.packing import pack_codes, packed_length, unpack_codes


@given(st.lists(st.integers(0, 15), min_size=1, max_size=65))
def test_four_bit_codes_against_a_scalar_loop(codes):
    packed = pack_codes(np.array(codes, np.uint8), 4)
    expected = []
    for index in range(0, len(codes), 2):
        high = codes[index + 1] if index + 1 < len(codes) else 0
        expected.append(codes[index] + 16 * high)
    assert packed.tolist() == expected
    assert packed_length(len(codes), 4) == len(expected)
    assert unpack_codes(packed, 4, len(codes)).tolist() == codes


def test_eight_bit_codes_are_bytes():
    codes = np.arange(256, dtype=np.uint8)
    assert pack_codes(codes, 8).tolist() == codes.tolist()
    assert unpack_codes(codes, 8, 256).tolist() == codes.tolist()
    assert packed_length(7, 8) == 7


@pytest.mark.parametrize("bits", [4, 8])
def test_only_the_last_axis_is_packed(bits):
    codes = np.random.default_rng(0).integers(0, 1 << bits, (3, 5, 7), dtype=np.uint8)
    packed = pack_codes(codes, bits)
    assert packed.shape == (3, 5, packed_length(7, bits))
    assert np.array_equal(unpack_codes(packed, bits, 7), codes)


def test_packing_leaves_its_input_alone():
    codes = np.array([1, 2, 3, 4], np.uint8)
    pack_codes(codes, 4)
    assert codes.tolist() == [1, 2, 3, 4]

"""An array after its pages are given back: zeros, less memory, and its neighbours untouched."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.common.process_memory import anonymous_rss_bytes
from edgewise.runtime.backends.page_release import lazy_zeros, release_pages


@given(start=st.integers(0, 9000), length=st.integers(0, 40_000))
def test_what_is_released_is_zero_and_nothing_else(start, length):
    array = np.ones(50_000, np.uint8)
    release_pages(array[start : start + length])
    expected = np.ones(50_000, np.uint8)
    expected[start : start + length] = 0
    assert (array == expected).all()
    array[:] = 3  # and it can be written again
    assert (array == 3).all()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are kept elsewhere")
def test_the_system_has_the_memory_back():
    array = np.ones((64 << 20) // 4, np.float32)
    before = anonymous_rss_bytes()
    release_pages(array)
    assert before - anonymous_rss_bytes() > 60 << 20


def test_rows_that_are_not_contiguous_are_refused():
    with pytest.raises(ValueError, match="contiguous"):
        release_pages(np.ones((10, 10))[:, :5])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="numpy decides elsewhere")
def test_large_arrays_take_memory_by_small_pages():
    array = lazy_zeros((4, 3, 4096, 64))  # 12 MiB
    assert array.flags.c_contiguous
    assert array.flags.writeable
    before = anonymous_rss_bytes()
    array[:, :, 0] = 1.0  # of each head the first position: far apart
    assert anonymous_rss_bytes() - before < 1 << 20
    assert array.sum() == 4 * 3 * 64
    release_pages(array)
    assert not array.any()


def test_small_arrays_are_zeros_too():
    assert lazy_zeros((2, 3)).tolist() == [[0.0] * 3] * 2

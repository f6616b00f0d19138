import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgewise.exporter.quantize.blockwise import quantize_blockwise

symmetries = pytest.mark.parametrize("symmetric", [True, False])


def squared_errors(quantized, weights, importance=None):
    """Of every block, in float64."""
    rows, blocks = quantized.scales.shape
    difference = quantized.dequantize().astype(np.float64) - weights
    squares = difference**2 * (1 if importance is None else importance.astype(np.float64))
    padded = np.zeros((rows, blocks * quantized.block_size))
    padded[:, : weights.shape[1]] = squares
    return padded.reshape(rows, blocks, -1).sum(axis=2)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_never_worse_than_round_to_nearest(data):
    bits = data.draw(st.sampled_from([4, 8]))
    block_size = data.draw(st.sampled_from([32, 64, 128]))
    symmetric = data.draw(st.booleans())
    columns = data.draw(st.integers(1, 2 * block_size))
    kind = data.draw(st.sampled_from(["any", "small numbers", "subnormal", "trained"]))
    if kind == "trained":
        random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        weights = random.standard_t(3, (2, columns)).astype(np.float32)
    else:
        limit = {"any": 2.0**119, "small numbers": 4.0, "subnormal": 2.0**-140}[kind]
        weights = data.draw(
            arrays.arrays(
                np.float32,
                (2, columns),
                elements=st.floats(width=32, min_value=-limit, max_value=limit),
            )
        )
    importance = None
    if data.draw(st.booleans()):
        importance = data.draw(
            arrays.arrays(
                np.float32, columns, elements=st.floats(width=32, min_value=0, max_value=1024)
            )
        )
    form = {"bits": bits, "block_size": block_size, "symmetric": symmetric}
    nearest = quantize_blockwise(weights, **form, search=False)
    searched = quantize_blockwise(weights, **form, importance=importance)
    plain = squared_errors(nearest, weights, importance)
    found = squared_errors(searched, weights, importance)
    # The search compares in float32, so two errors that differ by its rounding count as equal.
    # Its weights are relative to the most important channel: 2**-126 of that is nothing to it.
    largest = np.abs(weights.astype(np.float64)).max() ** 2
    rounding = 0.0
    if importance is not None:
        rounding = float(importance.max()) * largest * columns * 2.0**-125
    assert (found <= plain * (1 + 1e-5) + rounding + 2.0**-290 * largest).all()


def best_of_many(weights, bits, block_size, *, symmetric):
    """The least error over every zero point and a very dense grid of scales, in float64."""
    top, middle = (1 << bits) - 1, 1 << (bits - 1)
    blocks = weights.reshape(-1, block_size).astype(np.float64)
    largest = np.abs(blocks).max(axis=1)
    best = np.full(len(blocks), np.inf)
    candidates = (
        [(middle, sign) for sign in (1, -1)]
        if symmetric
        else [(zero_point, 1) for zero_point in range(top + 1)]
    )
    for zero_point, sign in candidates:
        reach = max(zero_point, top - zero_point)
        for factor in np.geomspace(0.4, 1.3, 200):
            scale = (sign * factor * largest / reach)[:, np.newaxis]
            for _ in range(2):
                levels = np.clip(np.rint(blocks / scale), -zero_point, top - zero_point)
                best = np.minimum(best, ((levels * scale - blocks) ** 2).sum(axis=1))
                norm = (levels**2).sum(axis=1)
                refit = (levels * blocks).sum(axis=1) / np.where(norm > 0, norm, 1)
                scale = np.where(refit == 0, scale[:, 0], refit)[:, np.newaxis]
    return best


@symmetries
@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_within_a_percent_of_an_exhaustive_search(block_size, symmetric, heavy_tailed):
    weights = heavy_tailed(64, 2 * block_size)
    quantized = quantize_blockwise(weights, bits=4, block_size=block_size, symmetric=symmetric)
    best = best_of_many(weights, 4, block_size, symmetric=symmetric).sum()
    assert squared_errors(quantized, weights).sum() <= 1.005 * best


@symmetries
@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_takes_a_tenth_off_the_error_of_trained_weights(block_size, symmetric, heavy_tailed):
    weights = heavy_tailed(256, 1024)
    form = {"bits": 4, "block_size": block_size, "symmetric": symmetric}
    nearest = squared_errors(quantize_blockwise(weights, **form, search=False), weights).sum()
    assert squared_errors(quantize_blockwise(weights, **form), weights).sum() < 0.93 * nearest


@symmetries
def test_finds_a_lattice_whose_ends_no_weight_takes(symmetric):
    random = np.random.default_rng(5)
    levels = random.integers(-6, 7, (64, 32))
    levels[:, 0] = 6
    weights = (levels * random.uniform(0.5, 2, (64, 1))).astype(np.float32)
    form = {"bits": 4, "block_size": 32, "symmetric": symmetric}
    nearest = squared_errors(quantize_blockwise(weights, **form, search=False), weights)
    found = squared_errors(quantize_blockwise(weights, **form), weights)
    assert (nearest > 1e-2).all()
    assert (found < 1e-10).all()


@symmetries
def test_importance_moves_the_error_to_channels_that_matter_less(symmetric, heavy_tailed):
    weights = heavy_tailed(64, 512)
    importance = np.random.default_rng(3).exponential(1, 512).astype(np.float32) ** 3
    form = {"bits": 4, "block_size": 32, "symmetric": symmetric}
    alike = squared_errors(quantize_blockwise(weights, **form), weights, importance).sum()
    weighted = quantize_blockwise(weights, **form, importance=importance)
    assert squared_errors(weighted, weights, importance).sum() < 0.9 * alike


@symmetries
def test_equal_importance_changes_nothing(symmetric, heavy_tailed):
    weights = heavy_tailed(8, 256)
    form = {"bits": 4, "block_size": 32, "symmetric": symmetric}
    alike = quantize_blockwise(weights, **form)
    weighted = quantize_blockwise(weights, **form, importance=np.full(256, 7, np.float32))
    for name, array in alike.arrays().items():
        assert array.tobytes() == weighted.arrays()[name].tobytes()


def test_a_block_of_no_importance_is_rounded_to_nearest(heavy_tailed):
    weights = heavy_tailed(4, 64)
    importance = np.zeros(64, np.float32)
    importance[32:] = 1
    form = {"bits": 4, "block_size": 32, "symmetric": True}
    quantized = quantize_blockwise(weights, **form, importance=importance)
    nearest = quantize_blockwise(weights, **form, search=False)
    assert np.array_equal(quantized.packed[:, 0], nearest.packed[:, 0])
    assert np.array_equal(quantized.scales[:, 0], nearest.scales[:, 0])

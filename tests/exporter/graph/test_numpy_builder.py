"""The reference's single operations against closed forms and brute force."""

import itertools
import math
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoint import ArraySource

from edgewise.exporter.graph import numpy_operations
from edgewise.exporter.graph.attention import Attention, Rotary
from edgewise.exporter.graph.numpy_builder import NumpyBuilder, NumpyCache
from edgewise.exporter.graph.numpy_operations import activate
from edgewise.exporter.graph.weight import Weight

RANDOM = np.random.default_rng(3)
POINTS = np.float32([-1000, -100, -20, -3, -1, -0.5, -1e-6, 0, 1e-6, 0.5, 1, 3, 20, 100, 1000])


def weight(array: np.ndarray, role: str = "attention") -> Weight:
    return Weight("w.weight", role, ArraySource(array.astype(np.float32)))


def random(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 1, shape).astype(np.float32)


def builder(past: int = 0) -> NumpyBuilder:
    cache = NumpyCache()
    if past:
        cache.append(0, random(1, 1, past, 4), random(1, 1, past, 4))
    return NumpyBuilder(np.zeros((1, 1), np.int64), cache)


# Activations


def standard_normal_share_below(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


CLOSED_FORMS = {
    "silu": lambda x: x * logistic(x),
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * standard_normal_share_below(x),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
}


@pytest.mark.parametrize("activation", CLOSED_FORMS)
def test_an_activation_is_its_closed_form(activation):
    with np.errstate(all="raise", under="ignore"):
        actual = activate(POINTS, activation)
    assert actual.dtype == np.float32
    expected = [CLOSED_FORMS[activation](float(x)) for x in POINTS]
    assert actual == pytest.approx(expected, rel=2e-6, abs=2e-7)


@given(st.floats(-50, 50, width=32))
def test_an_activation_of_any_number_is_its_closed_form(x):
    for activation, form in CLOSED_FORMS.items():
        actual = float(activate(np.float32([x]), activation)[0])
        assert actual == pytest.approx(form(x), rel=1e-5, abs=1e-5)


def test_the_gate_is_the_first_half():
    gate, up = random(1, 2, 6), random(1, 2, 6)
    joined = np.concatenate([gate, up], axis=-1)
    actual = builder().gated_activation(joined, "relu")
    assert np.array_equal(actual, np.maximum(gate, 0) * up)


# Look-ups and products


class RememberingSource(ArraySource):
    """Remembers which rows were asked for."""

    asked: ClassVar[list[tuple[int, int | None]]] = []

    def read(self, start=0, stop=None):
        self.asked.append((start, stop))
        return super().read(start, stop)


@pytest.fixture
def asked():
    """The rows that a test has asked for."""
    RememberingSource.asked.clear()
    return RememberingSource.asked


def test_an_embedding_reads_only_the_rows_that_occur(asked):
    table = random(100, 8)
    ids = np.asarray([[5, 99, 5], [0, 5, 0]])
    actual = builder().embedding(ids, Weight("e", "embedding", RememberingSource(table)))
    assert np.array_equal(actual, table[ids])
    assert sorted(asked) == [(0, 1), (5, 6), (99, 100)]


@pytest.mark.parametrize("rows", [1, 6, 7, 8, 20])
def test_a_head_is_multiplied_in_row_chunks(monkeypatch, asked, rows):
    monkeypatch.setattr(numpy_operations, "HEAD_CHUNK_ROWS", 7)
    matrix, x = random(rows, 5), random(2, 3, 5)
    actual = builder().linear(x, [Weight("h", "head", RememberingSource(matrix))])
    assert np.allclose(actual, x @ matrix.T, atol=1e-6)
    starts = list(range(0, rows, 7))
    assert asked == [(start, min(start + 7, rows)) for start in starts]


def test_packed_matrices_are_joined_with_their_biases():
    x = random(1, 2, 5)
    matrices, biases = [random(n, 5) for n in (4, 2, 3)], [random(n) for n in (4, 2, 3)]
    actual = builder().linear(
        x, [weight(matrix) for matrix in matrices], [weight(bias, "bias") for bias in biases]
    )
    expected = np.concatenate(
        [x @ matrix.T + bias for matrix, bias in zip(matrices, biases, strict=True)], axis=-1
    )
    assert np.allclose(actual, expected, atol=1e-6)


# Norms


def test_rms_norm_is_its_definition():
    x, scale = random(2, 3, 8), random(8)
    actual = builder().rms_norm(x, weight(scale, "norm"), 1e-2)
    for row, out in zip(x.reshape(-1, 8), actual.reshape(-1, 8), strict=True):
        root = math.sqrt(sum(float(value) ** 2 for value in row) / 8 + 1e-2)
        assert out == pytest.approx(row / root * scale, rel=1e-5)


def test_add_rms_norm_gives_the_sum_and_its_norm():
    residual, x, scale = random(1, 2, 8), random(1, 2, 8), random(8)
    total, normed = builder().add_rms_norm(residual, x, weight(scale, "norm"), 1e-5)
    assert np.array_equal(total, residual + x)
    assert np.array_equal(normed, builder().rms_norm(residual + x, weight(scale, "norm"), 1e-5))


# Attention


def brute_force(packed, constants, past_keys, past_values):
    """One query at a time, one head at a time, in plain Python loops."""
    heads, groups, size = constants.heads, constants.key_value_heads, constants.head_size
    tokens = packed.reshape(packed.shape[1], heads + 2 * groups, size).astype(np.float64)
    past = past_keys.shape[2]

    def rotated(vector, position):
        if constants.rotary is None:
            return vector
        result = vector.copy()
        pairs = len(constants.rotary.inverse_frequencies)
        for pair, frequency in enumerate(constants.rotary.inverse_frequencies):
            a, b = vector[pair], vector[pair + pairs]
            cosine, sine = math.cos(position * frequency), math.sin(position * frequency)
            result[pair], result[pair + pairs] = a * cosine - b * sine, b * cosine + a * sine
        return result

    output = np.zeros((len(tokens), heads, size))
    for index, head in itertools.product(range(len(tokens)), range(heads)):
        group = head // (heads // groups)
        query = rotated(tokens[index, head], past + index)
        keys = [*past_keys[0, group].astype(np.float64)]
        values = [*past_values[0, group].astype(np.float64)]
        for other in range(index + 1):
            keys.append(rotated(tokens[other, heads + group], past + other))
            values.append(tokens[other, heads + groups + group])
        scores = [math.exp(float(query @ key) * constants.scale) for key in keys]
        total = sum(scores)
        output[index, head] = sum(
            score / total * value for score, value in zip(scores, values, strict=True)
        )
    return output.reshape(1, len(tokens), -1)


@pytest.mark.parametrize("past", [0, 5])
@pytest.mark.parametrize(
    "rotary",
    [None, Rotary((1.0, 0.1)), Rotary((0.7,))],
    ids=["none", "whole heads", "half of a head"],
)
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (3, 1), (2, 2)])
def test_attention_is_its_definition(heads, groups, rotary, past):
    constants = Attention(0, heads, groups, 4, 0.5, rotary)
    keys, values = random(1, groups, past, 4), random(1, groups, past, 4)
    cache = NumpyCache()
    if past:
        cache.append(0, keys, values)
    packed = random(1, 3, (heads + 2 * groups) * 4)
    actual = NumpyBuilder(np.zeros((1, 3), np.int64), cache).attention(packed, constants)
    assert actual == pytest.approx(brute_force(packed, constants, keys, values), abs=1e-5)
    assert cache.length == past + 3


def test_scores_that_would_overflow_do_not():
    constants = Attention(0, 1, 1, 4, 1.0, None)
    packed = np.full((1, 3, 12), 100.0, np.float32)
    actual = builder().attention(packed, constants)
    assert np.allclose(actual, 100)


def test_layers_keep_caches_of_their_own():
    cache = NumpyCache()
    assert cache.length == 0
    first, second = random(1, 1, 2, 4), random(1, 1, 2, 4)
    cache.append(0, first, first)
    cache.append(1, second, second)
    keys, values = cache.append(0, second, first)
    assert np.array_equal(keys, np.concatenate([first, second], axis=2))
    assert np.array_equal(values, np.concatenate([first, first], axis=2))


def test_rotary_tables_are_exact_at_far_positions():
    """In float32 the angle at position 100000 would be off by up to 0.004 radians."""
    rotary = Rotary((0.7390851,))
    cosine, sine = rotary.tables(100_001)
    assert cosine[-1, 0] == pytest.approx(math.cos(100_000 * 0.7390851), abs=1e-7)
    assert sine[-1, 0] == pytest.approx(math.sin(100_000 * 0.7390851), abs=1e-7)


@pytest.mark.parametrize(("asked", "kept"), [(None, 5), (1, 1), (3, 3), (5, 5)])
def test_the_last_positions_are_kept(asked, kept):
    x = random(2, 5, 3)
    reference = NumpyBuilder(np.zeros((2, 5), np.int64), last_positions=asked)
    assert np.array_equal(reference.last_token(x), x[:, -kept:])

"""Layers that see a window of tokens: exact at its edge, in every builder and every pass."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from decoder_graphs import CONTEXT, RUNTIMES, built, step
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import TinyModel, load_case

from edgewise.exporter.graph.attention import Attention
from edgewise.exporter.graph.numpy_builder import NumpyBuilder, NumpyCache
from edgewise.exporter.graph.numpy_operations import heads_first
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_litertlm import LitertLmBuilder
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.runtime.backends.litert_lm import LitertLmBackend

TOLERANCE = 1e-4
RANDOM = np.random.default_rng(8)
HEADS, SIZE = 2, 4


def attended_one_by_one(packed, window, scale):
    """Attend for each token and head in a loop, over the slice of tokens that it may see."""
    query, key, value = np.split(heads_first(packed, SIZE), 3, axis=1)
    result = np.zeros((packed.shape[1], HEADS, SIZE))
    for head in range(HEADS):
        for token in range(packed.shape[1]):
            seen = slice(max(0, token - window + 1), token + 1)
            scores = np.exp(scale * key[0, head, seen] @ query[0, head, token].astype(float))
            result[token, head] = (scores / scores.sum()) @ value[0, head, seen]
    return result.reshape(packed.shape[1], HEADS * SIZE)


@settings(deadline=None)
@given(st.integers(1, 14), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_the_reference_sees_the_window_and_nothing_before_it(window, chunks):
    tokens = sum(chunks)
    packed = RANDOM.normal(0, 1, (1, tokens, 3 * HEADS * SIZE)).astype(np.float32)
    attention = Attention(0, HEADS, HEADS, SIZE, 0.5, None, window=window)
    cache, start, parts = NumpyCache(), 0, []
    for chunk in chunks:
        builder = NumpyBuilder(np.zeros((1, chunk), np.int64), cache)
        parts.append(builder.attention(packed[:, start : start + chunk], attention)[0])
        start += chunk
    expected = attended_one_by_one(packed, window, 0.5)
    assert np.concatenate(parts) == pytest.approx(expected, abs=1e-5)


def windowed(window, name="qwen2_window"):
    """Return a tiny model with another window, and what the reference computes at each token."""
    case = load_case(name)
    model = TinyModel(dataclasses.replace(case, config=case.config | {"sliding_window": window}))
    reference = NumpyBuilder(np.asarray([case.sequences[0]]))
    model.forward(reference)
    return model, case.sequences[0], reference.logits[0]


# Below, at and above the chunks of 4 and 8 tokens and the caches of 8 and 16 positions.
@pytest.mark.parametrize("window", [1, 3, 4, 7, 8, 9, 16, 22, 23])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_graphs_agree_at_every_edge(tmp_path, runtime, window):
    model, sequence, expected = windowed(window)
    backend = built(runtime, model, tmp_path)
    for position in range(len(sequence)):
        actual = step(backend, 0, sequence[position : position + 1], position)
        assert np.abs(actual - expected[position]).max() < TOLERANCE
    at = 0
    for size in (11, 3, 8, 1):
        at += size
        actual = step(backend, 1, sequence[at - size : at], at - size)
        assert np.abs(actual - expected[at - 1]).max() < TOLERANCE


def test_windows_change_what_is_computed():
    _, _, narrow = windowed(3)
    _, _, wide = windowed(23)
    assert np.abs(narrow[:3] - wide[:3]).max() < TOLERANCE
    assert np.abs(narrow[3:] - wide[3:]).max(axis=1).min() > 0.01


@pytest.mark.parametrize("name", ["gemma3_windows", "qwen2_window"])
def test_litert_lms_graphs_agree(tmp_path, name):
    model, sequence, expected = windowed(6, name)
    file = TfliteFile()
    weights = WeightStore(file, Recipe.parse("fp32"))
    for tokens in (1, 16):
        builder = LitertLmBuilder(file, weights, tokens, CONTEXT)
        model.forward(builder)
        builder.finish()
    path = tmp_path / "model.tflite"
    file.write(path)
    manifest = SimpleNamespace(vocabulary_size=model.configuration.vocabulary_size)
    backend = LitertLmBackend(path, manifest, threads=1, capacity=CONTEXT)
    for position in range(len(sequence)):
        actual = step(backend, 0, sequence[position : position + 1], position)
        assert np.abs(actual - expected[position]).max() < TOLERANCE
    # A chunk fills the cache with what single tokens put there.
    runner = Interpreter(model_path=str(path)).get_signature_runner("prefill_16")
    given = {
        name: np.zeros(details["shape"], details["dtype"])
        for name, details in runner.get_input_details().items()
    }
    given["tokens"][0] = sequence[:16]
    given["input_pos"][:] = np.arange(16)
    seen = np.arange(CONTEXT)[None] <= np.arange(16)[:, None]
    given["mask"][0, 0] = np.where(seen, 0, -1e9)
    for cache_name, cache in runner(**given).items():
        single = backend._state[cache_name]
        axis = 2 if "_k_" in cache_name else 3
        chunk, one_by_one = (np.take(array, range(16), axis) for array in (cache, single))
        assert np.abs(chunk - one_by_one).max() < TOLERANCE

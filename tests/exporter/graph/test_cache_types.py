"""Decoders whose keys and values are kept in float16 or in 8 bits.

What a graph computes is held against the reference with a cache that rounds as the graph's does.
"""

import numpy as np
import pytest
from decoder_graphs import CONTEXT, build_onnx, load_onnx, step
from family_graphs import build, open_encoder_decoder
from tiny_checkpoint import TinyModel, load_case
from tiny_families import ENCODER_DECODERS, TinyEncoderDecoder

from edgewise.exporter.graph.attention import CacheScales
from edgewise.exporter.graph.numpy_builder import NumpyBuilder, NumpyCache

FAMILIES = (
    "phi_half_rotary",
    "qwen3_tied",
    "phi3_window",
    "gemma3_windows",
    "gpt2_tied",
    "gpt2_narrow_heads",
    "llama_tinyllama_ratio",
    "llama_narrow_heads",
)
# Largest relative error of the logits. Products of float16 are summed in float32 or float16, as
# the processor has it, and queries are rounded too; products with codes are summed in float32, but
# what lies between two codes may be rounded to either.
BOUNDS = {"float16": 5e-3, "int8": 1e-3}
BYTES = {"float32": 4, "float16": 2, "int8": 1}
STEP = 0.02  # of int8; the keys and values of the tiny models are within 127 of them


class Rounded(NumpyCache):
    """Keeps what is left of keys and values in another type."""

    def __init__(self, dtype, scales):
        super().__init__()
        self._dtype, self._scales = dtype, scales

    def append(self, layer, keys, values):
        if self._dtype == "float16":
            keys, values = (x.astype(np.float16).astype(np.float32) for x in (keys, values))
        if self._dtype == "int8":
            steps = self._scales[layer].keys, self._scales[layer].values
            keys, values = (
                np.clip(np.rint(x / by[None, :, None]), -128, 127) * by[None, :, None]
                for x, by in zip((keys, values), steps, strict=True)
            )
        return super().append(layer, keys, values)


def scales_of(model):
    """Steps that differ from feature to feature."""
    c = model.configuration
    random = np.random.default_rng(3)
    shape = (c.key_value_heads, c.head_size)
    return {
        layer: CacheScales(
            *(STEP * random.uniform(0.5, 1.5, shape).astype(np.float32) for _ in range(2))
        )
        for layer in range(c.layers)
    }


def loaded(model, folder, dtype, slots=2):
    scales = scales_of(model)
    build_onnx(model, folder, "fp32", cache_dtype=dtype, cache_scales=scales)
    return load_onnx(model, folder, slots, dtype), scales


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return TinyModel(load_case(request.param))


@pytest.mark.parametrize("dtype", BOUNDS)
def test_prefill_and_decode_equal_the_reference_with_a_rounded_cache(tmp_path, model, dtype):
    backend, scales = loaded(model, tmp_path, dtype)
    sequence = model.case.sequences[0]
    cache, expected, actual, past = Rounded(dtype, scales), [], [], 0
    for end in (len(sequence) - 6, *range(len(sequence) - 5, len(sequence) + 1)):
        ids = sequence[past:end]
        builder = NumpyBuilder(np.asarray([ids]), cache, last_positions=1)
        model.forward(builder)
        expected.append(builder.logits[0, -1])
        actual.append(step(backend, 0, ids, past))
        past = end
    error = np.linalg.norm(np.stack(actual) - expected) / np.linalg.norm(expected)
    print(f"{model.case.name} {dtype}: relative error of the logits {error:.2g}")
    assert error < BOUNDS[dtype]
    exact = NumpyBuilder(np.asarray([sequence]), last_positions=1)
    model.forward(exact)
    assert np.abs(actual[-1] - exact.logits[0, -1]).max() > 1e-6  # it does round


@pytest.mark.parametrize("dtype", BOUNDS)
def test_what_is_read_is_as_it_is_kept_and_can_be_written_elsewhere(tmp_path, model, dtype):
    backend, _ = loaded(model, tmp_path, dtype)
    sequence = model.case.sequences[0]
    step(backend, 0, sequence[:-1], 0)
    cache = backend.read_cache(0, len(sequence) - 1)
    assert cache.dtype == dtype
    expected = step(backend, 0, sequence[-1:], len(sequence) - 1)
    backend.write_cache(1, cache)
    assert (step(backend, 1, sequence[-1:], len(sequence) - 1) == expected).all()
    backend.release(1)
    backend.copy_prefix(0, 1, len(sequence) - 1)
    assert (step(backend, 1, sequence[-1:], len(sequence) - 1) == expected).all()


@pytest.mark.parametrize("dtype", BOUNDS)
def test_rows_of_several_lengths_equal_each_alone(tmp_path, model, dtype):
    backend, _ = loaded(model, tmp_path, dtype)
    sequence = model.case.sequences[0]
    rows = [sequence, sequence[: len(sequence) // 2]]
    ids = np.zeros((2, len(sequence)), np.int64)
    counts = np.asarray([len(row) for row in rows], np.int32)
    for row, content in enumerate(rows):
        ids[row, : len(content)] = content
    together = backend.step(0, ids, np.zeros(2, np.int32), counts).copy()
    next_ids = np.full((2, 1), sequence[0])
    together = [together, backend.step(0, next_ids, counts).copy()]
    for row, content in enumerate(rows):
        alone = [step(backend, 1, content, 0), step(backend, 1, [sequence[0]], len(content))]
        for ours, expected in zip(together, alone, strict=True):
            assert np.abs(ours[row] - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", BYTES)
def test_memory_follows_the_type(tmp_path, dtype):
    model = TinyModel(load_case("llama_tinyllama_ratio"))
    backend, _ = loaded(model, tmp_path, dtype)
    c = model.configuration
    page, heads = 4096, 2 * c.layers * c.key_value_heads
    in_a_head = CONTEXT * c.head_size * BYTES[dtype]
    assert backend.slot_bytes(CONTEXT) == heads * -(-in_a_head // page) * page


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_encoder_decoders_keep_float16(tmp_path, name):
    model = TinyEncoderDecoder(name)
    build("onnx", model, tmp_path, cache_dtype="float16")
    backend = open_encoder_decoder("onnx", model, tmp_path, cache_dtype="float16")
    backend.read_source(0, model.ids, model.counts)
    expected = model.expected()["logits"]
    for position in range(expected.shape[1]):
        past = np.full(2, position, np.int32)
        logits = backend.step(0, model.targets[:, position : position + 1], past)
        error = np.linalg.norm(logits - expected[:, position])
        assert error < BOUNDS["float16"] * np.linalg.norm(expected[:, position])
    backend.close()

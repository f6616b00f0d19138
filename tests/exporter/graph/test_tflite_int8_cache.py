"""TFLite graphs that keep keys and values with 8 bits, each feature of each head in its steps."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from decoder_graphs import CONTEXT, SMALL, build_tflite, load_tflite, opened, step
from tflite_partitions import outside_of_partitions
from tiny_checkpoint import TinyModel, load_case

from edgewise.exporter.graph.attention import CacheScales
from edgewise.exporter.graph.numpy_builder import NumpyBuilder, NumpyCache
from edgewise.exporter.graph.tflite_builder import TfliteBuilder
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_signatures import Signature
from edgewise.exporter.graph.tflite_weights import LITERT, TFLITE_RUNTIME, WeightStore
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.runtime.backends.litert import LitertBackend
from edgewise.runtime.backends.litert_interpreter import InterpreterEngine

GRAPHS = (*SMALL, Signature(4, 16, verifies=True), Signature(4, CONTEXT, verifies=True))


@pytest.fixture(scope="module", params=["llama_tied_wide_head", "qwen2_untied"])
def plain(request, tmp_path_factory):
    """A case, its keys and values in float32, and what a step of their codes is to be."""
    case = load_case(request.param)
    model = TinyModel(case)
    backend = load_tflite(model, build_tflite(model, tmp_path_factory.mktemp("plain"), "fp32"))
    sequence = case.sequences[0]
    step(backend, 0, sequence, 0)
    cache = backend.read_cache(0, len(sequence))
    backend.close()
    largest = np.abs(cache).max(axis=2) / 127
    scales = {
        layer: CacheScales(largest[2 * layer], largest[2 * layer + 1])
        for layer in range(len(cache) // 2)
    }
    return SimpleNamespace(case=case, model=model, cache=cache, scales=scales)


class Rounded(NumpyCache):
    """Keeps codes."""

    def __init__(self, scales):
        super().__init__()
        self._scales = scales

    def append(self, layer, keys, values):
        steps = (self._scales[layer].keys, self._scales[layer].values)
        kept = [
            np.clip(np.rint(numbers / step[:, None]), -128, 127) * step[:, None]
            for numbers, step in zip((keys, values), steps, strict=True)
        ]
        return super().append(layer, *kept)


def relative(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def build(plain, folder, recipe, graphs=GRAPHS, release=LITERT):
    file = TfliteFile()
    weights = WeightStore(file, Recipe.parse(recipe), release)
    for signature in graphs:
        builder = TfliteBuilder(file, weights, signature, CONTEXT, cache_scales=plain.scales)
        plain.model.forward(builder)
        builder.finish()
    path = folder / "model.tflite"
    file.write(path)
    return path


def bundle_of(plain, path):
    bundle = opened(plain.model, path)
    bundle.manifest.cache = dataclasses.replace(bundle.manifest.cache, dtype="int8")
    return bundle


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def backend(request, plain, tmp_path_factory):
    bundle = bundle_of(plain, build(plain, tmp_path_factory.mktemp("int8"), "fp32"))
    backend = LitertBackend(bundle, threads=1, slots=2, capacity=CONTEXT)
    if request.param == "interpreted":
        backend._engine.close()
        backend._engine = InterpreterEngine(bundle, threads=1, slots=2, capacity=CONTEXT)
    yield backend
    backend.close()


def test_the_first_layer_is_kept_to_half_a_step(plain, backend):
    """Its keys and values depend on no cache; those of later layers do, a little."""
    sequence = plain.case.sequences[0]
    step(backend, 0, sequence, 0)
    codes = backend.read_cache(0, len(sequence))
    assert codes.dtype == np.int8
    assert codes.shape == plain.cache.shape
    for array, steps in ((0, plain.scales[0].keys), (1, plain.scales[0].values)):
        in_steps = plain.cache[array] / steps[:, None]
        assert np.abs(codes[array] - in_steps).max() < 0.5 + 1e-3


def test_logits_are_those_of_a_reference_that_rounds_its_cache(plain, backend):
    """But for numbers so near to the middle of two codes that float32 decides otherwise."""
    sequence = plain.case.sequences[0]
    reference = NumpyBuilder(np.asarray([sequence]), Rounded(plain.scales))
    plain.model.forward(reference)
    expected, exact = reference.logits[0], plain.case.expected_logits()[0]
    assert relative(expected, exact) > 0.005  # which is not what float32 computes
    actual = np.stack([step(backend, 1, [id_], place) for place, id_ in enumerate(sequence)])
    assert relative(actual, expected) < 0.002


def test_it_makes_no_difference_how_tokens_come(plain, backend):
    """But for the order of sums, which may round a number to the next code now and then."""
    sequence = plain.case.sequences[0]
    expected = step(backend, 0, sequence, 0)
    for sizes in ((8, 1, 9), (1, 1, 5), (4, 4, 4, 4)):
        at = 0
        for size in (*sizes, len(sequence) - sum(sizes)):
            actual = step(backend, 1, sequence[at : at + size], at)
            at += size
        assert relative(actual, expected) < 0.002
    step(backend, 1, sequence[:9], 0)
    actual = backend.verify(1, np.asarray(sequence[9:]), 9)[-1]
    assert relative(actual, expected) < 0.002


def test_a_slot_takes_a_quarter_and_moves_as_ever(plain, backend):
    sequence = plain.case.sequences[0]
    assert backend.slot_bytes(CONTEXT) == plain.cache[:, :, 0].size * CONTEXT
    expected = step(backend, 0, sequence, 0)
    backend.copy_prefix(0, 1, 9)
    cache = backend.read_cache(0, 9)
    backend.release(0)
    assert np.array_equal(backend.read_cache(1, 9), cache)
    backend.write_cache(0, cache)
    for slot in (0, 1):
        actual = step(backend, slot, sequence[9:], 9)
        assert relative(actual, expected) < 0.002


@pytest.mark.parametrize("release", [LITERT, TFLITE_RUNTIME])
@pytest.mark.parametrize("graph", [Signature(1, 16), Signature(8, 0), Signature(8, 16)])
def test_xnnpack_runs_all_but_look_ups_and_casts_in_one_partition(plain, tmp_path, graph, release):
    partitions, outside = outside_of_partitions(build(plain, tmp_path, "int8", (graph,), release))
    assert partitions == 1
    assert set(outside) <= {"CAST", "EMBEDDING_LOOKUP", "GATHER"}

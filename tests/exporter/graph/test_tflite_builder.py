"""TFLite graphs, run by LiteRT through the runtime's own back end, against the reference."""

import dataclasses
import json
import os
import subprocess

import numpy as np
import pytest
from decoder_graphs import CONTEXT, Dequantized, build_tflite, load_tflite, opened, step
from tiny_checkpoint import CASES, TinyModel, load_case

from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.tflite_weights import LITERT, TFLITE_RUNTIME
from edgewise.runtime.backends.litert import LitertBackend
from edgewise.runtime.backends.litert_compiled import CompiledEngine
from edgewise.runtime.backends.litert_interpreter import InterpreterEngine

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=CASES)
def exported(request, tmp_path_factory):
    """A case, its fp32 graphs loaded with two slots, and what transformers computes."""
    case = load_case(request.param)
    model = TinyModel(case)
    path = build_tflite(model, tmp_path_factory.mktemp(case.name), "fp32")
    backend = load_tflite(model, path)
    yield case, backend, case.expected_logits()
    backend.close()


def test_single_steps_across_every_bucket_equal_transformers(exported):
    case, backend, expected = exported
    sequence = case.sequences[0]
    assert len(sequence) > 16  # beyond two caches
    for position in range(len(sequence)):
        actual = step(backend, 1, sequence[position : position + 1], position)
        assert np.abs(actual - expected[0][position]).max() < TOLERANCE


def test_a_shorter_past_forgets_what_was_behind_it(exported):
    case, backend, expected = exported
    sequence = case.sequences[0]
    step(backend, 0, sequence, 0)
    step(backend, 0, [7, 8, 9], 6)  # another continuation, then the first again
    actual = step(backend, 0, sequence[6:10], 6)
    assert np.abs(actual - expected[0][9]).max() < TOLERANCE
    step(backend, 0, case.sequences[1], 0)  # another conversation, in a smaller cache
    actual = step(backend, 0, case.sequences[1][-1:], len(case.sequences[1]) - 1)
    assert np.abs(actual - expected[1][-1]).max() < TOLERANCE


def test_a_copied_prefix_goes_on_as_the_whole_text(exported):
    case, backend, expected = exported
    sequence = case.sequences[0]
    step(backend, 1, case.sequences[1], 0)
    for length in (3, 12):  # within the smallest cache, and beyond it
        step(backend, 0, sequence, 0)
        backend.copy_prefix(0, 1, length)
        actual = step(backend, 1, sequence[length:], length)
        assert np.abs(actual - expected[0][-1]).max() < TOLERANCE
        backend.release(0)


def test_a_slot_takes_the_bytes_of_its_cache_and_works_after_its_release(exported):
    case, backend, expected = exported
    layout = backend.slot_bytes(1)
    assert backend.slot_bytes(CONTEXT) >= layout > 0
    for _ in range(2):
        backend.release(0)
        actual = step(backend, 0, case.sequences[0], 0)
        assert np.abs(actual - expected[0][-1]).max() < TOLERANCE


@pytest.mark.parametrize("name", ["llama_tied_wide_head", "qwen2_untied"])
def test_both_engines_compute_the_same(tmp_path, name):
    case = load_case(name)
    model = TinyModel(case)
    bundle = opened(model, build_tflite(model, tmp_path, "int8"))
    compiled = LitertBackend(bundle, threads=1, slots=2, capacity=CONTEXT)
    assert isinstance(compiled._engine, CompiledEngine)
    interpreted = LitertBackend(bundle, threads=1, slots=2, capacity=CONTEXT)
    interpreted._engine = InterpreterEngine(bundle, threads=1, slots=2, capacity=CONTEXT)
    past = [0, 0]
    for slot, size in ((0, 5), (1, 8), (0, 3), (1, 1), (0, 9), (0, 1), (0, 1)):
        ids = case.sequences[slot][past[slot] : past[slot] + size]
        results = [step(backend, slot, ids, past[slot]) for backend in (compiled, interpreted)]
        assert np.array_equal(*results)
        past[slot] += size
    for backend in (compiled, interpreted):
        backend.copy_prefix(0, 1, 6)
        backend.release(0)
    ids = case.sequences[0][6:]
    expected = [step(backend, 1, ids, 6).copy() for backend in (compiled, interpreted)]
    assert np.array_equal(*expected)
    cache = compiled.read_cache(1, 6)
    assert np.array_equal(cache, interpreted.read_cache(1, 6))
    for backend in (compiled, interpreted):
        backend.write_cache(0, cache)
        assert np.array_equal(step(backend, 0, ids, 6), expected[0])


EXACT_RECIPES = [
    "fp16",
    "fp32,embedding=int8",
    "fp32,embedding=int4-block32",
    "fp16,head=fp32",
    "fp32,embedding=int4-channel",
]


@pytest.mark.parametrize(
    "name", ["llama_tied_wide_head", "llama_multi_head_biases", "qwen2_untied"]
)
@pytest.mark.parametrize("recipe", EXACT_RECIPES)
def test_stored_weights_are_computed_with_exactly(tmp_path, name, recipe):
    """With float32 activations the graph's only difference from fp32 is what was rounded."""
    case = load_case(name)
    backend = load_tflite(TinyModel(case), build_tflite(TinyModel(case), tmp_path, recipe))
    reference = NumpyBuilder(np.asarray([case.sequences[0]]))
    Dequantized(case, recipe, "tflite").forward(reference)
    actual = step(backend, 0, case.sequences[0], 0)
    assert np.abs(actual - reference.logits[0, -1]).max() < TOLERANCE


# Largest relative error of the logits by int8 activations, measured at 0.04 and below.
ACTIVATION_ERROR = 0.08


@pytest.mark.parametrize(
    "recipe",
    [
        "int8",
        "int4",
        "int4-block64,embedding=int8",
        "int8,mlp=int4-block32",
        "fp16,mlp=int8",
        "int4-channel",
    ],
)
@pytest.mark.parametrize("name", ["qwen2_untied", "llama_tied_wide_head"])
def test_int8_activations_stay_near_the_stored_weights(tmp_path, name, recipe):
    case = load_case(name)
    if "block64" in recipe and case.config["intermediate_size"] % 64:
        recipe += ",mlp=int4-block32"
    backend = load_tflite(TinyModel(case), build_tflite(TinyModel(case), tmp_path, recipe))
    reference = NumpyBuilder(np.asarray([case.sequences[0]]))
    Dequantized(case, recipe, "tflite").forward(reference)
    expected = reference.logits[0, -1]
    actual = step(backend, 0, case.sequences[0], 0)
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert error < ACTIVATION_ERROR


@pytest.mark.parametrize("name", ["qwen2_untied", "llama_tied_wide_head"])
def test_scales_apart_compute_what_scales_inside_do(tmp_path, name):
    case = load_case(name)
    model = TinyModel(case)
    paths = [
        build_tflite(model, tmp_path / str(index), "int8", release=release)
        for index, release in enumerate((LITERT, TFLITE_RUNTIME))
    ]
    inside, apart = (step(load_tflite(model, path), 0, case.sequences[0], 0) for path in paths)
    assert np.abs(inside - apart).max() < TOLERANCE


RUN_ELSEWHERE = """
import json, sys
import numpy as np
from types import SimpleNamespace
from pathlib import Path
from edgewise.runtime.backends.litert import LitertBackend
from edgewise.runtime.manifest import CacheLayout
path, layout, vocabulary, context, sequence = json.loads(sys.stdin.read())
manifest = SimpleNamespace(
    cache=CacheLayout(**layout), vocabulary_size=vocabulary, labels=(), minimum_versions={}
)
bundle = SimpleNamespace(path=Path(path).parent, file=lambda role: Path(path), manifest=manifest)
backend = LitertBackend(bundle, threads=1, slots=1, capacity=context)
rows = [backend.step(0, np.array([sequence[:9]]), np.zeros(1, np.int32))[0].copy()]
for at in range(9, len(sequence)):
    ids, past = np.array([sequence[at:at + 1]]), np.array([at], np.int32)
    rows.append(backend.step(0, ids, past)[0].copy())
print(type(backend._engine).__name__, json.dumps(np.stack(rows).tolist()))
"""
OTHER_PYTHON = os.environ.get("EDGEWISE_TFLITE_RUNTIME_PYTHON")


@pytest.mark.skipif(
    OTHER_PYTHON is None,
    reason="set EDGEWISE_TFLITE_RUNTIME_PYTHON to a Python 3.11 with tflite-runtime 2.14 "
    "(numpy below 2, tokenizers, jinja2 and this package)",
)
@pytest.mark.parametrize("recipe", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["qwen2_untied", "llama_tied_wide_head"])
def test_the_old_runtime_computes_the_same(tmp_path, name, recipe):
    case = load_case(name)
    model = TinyModel(case)
    path = build_tflite(model, tmp_path, recipe, release=TFLITE_RUNTIME)
    layout = dataclasses.asdict(opened(model, path).manifest.cache)
    sequence = list(case.sequences[0])
    given = json.dumps([str(path), layout, case.config["vocab_size"], CONTEXT, sequence])
    result = subprocess.run(
        [OTHER_PYTHON, "-c", RUN_ELSEWHERE], input=given, capture_output=True, text=True, check=True
    )
    engine, _, rows = result.stdout.partition(" ")
    assert engine == "InterpreterEngine"
    reference = NumpyBuilder(np.asarray([sequence]))
    Dequantized(case, recipe, "tflite").forward(reference)
    expected, actual = reference.logits[0, 8:], np.asarray(json.loads(rows))
    errors = np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert errors.max() < (TOLERANCE if recipe == "fp32" else ACTIVATION_ERROR)

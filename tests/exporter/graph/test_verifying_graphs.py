"""Graphs that give the logits of every token: those of one step a token, in either engine."""

import numpy as np
import pytest
from decoder_graphs import CONTEXT, SMALL, build_tflite, load_tflite, opened, step
from tflite_partitions import outside_of_partitions
from tiny_checkpoint import TinyModel, load_case

from edgewise.exporter.graph.tflite_signatures import Signature
from edgewise.runtime.backends.litert import LitertBackend
from edgewise.runtime.backends.litert_interpreter import InterpreterEngine
from edgewise.runtime.backends.protocol import VerifyingBackend

TOLERANCE = 1e-4
VERIFYING = tuple(Signature(4, cache, verifies=True) for cache in (8, 16, CONTEXT))
CASES = ["llama_tied_wide_head", "llama_multi_head_biases", "qwen2_untied"]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return load_case(request.param)


@pytest.fixture(scope="module", params=["compiled", "interpreted"])
def backend(request, case, tmp_path_factory):
    model = TinyModel(case)
    path = build_tflite(model, tmp_path_factory.mktemp(case.name), "fp32", (*SMALL, *VERIFYING))
    backend = load_tflite(model, path)
    if request.param == "interpreted":
        backend._engine.close()
        bundle = opened(model, path)
        backend._engine = InterpreterEngine(bundle, threads=1, slots=2, capacity=CONTEXT)
    yield backend
    backend.close()


def test_it_fulfils_the_protocol(backend):
    fulfilled: VerifyingBackend = backend
    assert fulfilled.verifies
    assert isinstance(backend, VerifyingBackend)


@pytest.mark.parametrize("past", [0, 1, 6, 8, 13])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_one_step_tells_what_transformers_says_of_each_token(case, backend, past, count):
    sequence, expected = case.sequences[0], case.expected_logits()[0]
    count = min(count, len(sequence) - past)
    if past:
        step(backend, 1, sequence[:past], 0)
    actual = backend.verify(1, np.asarray(sequence[past : past + count]), past)
    assert actual.shape == (count, backend.vocabulary_size)
    assert np.abs(actual - expected[past : past + count]).max() < TOLERANCE


def test_the_slot_goes_on_behind_what_was_agreed_with(case, backend):
    sequence, expected = case.sequences[0], case.expected_logits()[0]
    step(backend, 0, sequence[:5], 0)
    wrong = [(token + 1) % backend.vocabulary_size for token in sequence[7:9]]
    drafted = backend.verify(0, np.asarray([*sequence[5:7], *wrong]), 5)
    assert np.abs(drafted[:2] - expected[5:7]).max() < TOLERANCE
    for place in range(7, len(sequence)):
        actual = step(backend, 0, sequence[place : place + 1], place)
        assert np.abs(actual - expected[place]).max() < TOLERANCE


def test_steps_never_take_them(case, backend):
    assert not any(graph.verifies for graph in backend._graphs)
    assert step(backend, 0, case.sequences[0][:4], 0).shape == (backend.vocabulary_size,)


def test_without_them_nothing_is_verified(case, tmp_path):
    model = TinyModel(case)
    backend: LitertBackend = load_tflite(model, build_tflite(model, tmp_path, "fp32"))
    assert not backend.verifies
    backend.close()


@pytest.mark.parametrize("recipe", ["fp32", "int8", "int8,mlp=int4-block32"])
def test_xnnpack_runs_all_but_look_ups_and_a_cast_in_one_partition(tmp_path, recipe):
    graphs = (Signature(8, 16, verifies=True),)
    path = build_tflite(TinyModel(load_case("qwen2_untied")), tmp_path, recipe, graphs)
    partitions, outside = outside_of_partitions(path)
    assert partitions == 1
    assert outside.count("CAST") == 1
    assert set(outside) == {"CAST", "EMBEDDING_LOOKUP"}

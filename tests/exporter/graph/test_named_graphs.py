"""Graphs called by name: both libraries give the same, and one stands in for the other."""

import gc

import numpy as np
import pytest
from family_graphs import build
from tiny_families import TinyEncoder, TinyEncoderDecoder

from edgewise.runtime.backends import litert_named_graphs
from edgewise.runtime.backends.litert_named_graphs import (
    InterpretedGraphs,
    PackedGraphs,
    open_named_graphs,
)
from edgewise.runtime.backends.protocol import BackendError
from edgewise.runtime.cache_folder import FOLDER

CASES = [(TinyEncoder, "bert_masked_language_model"), (TinyEncoderDecoder, "t5_v1_1")]


@pytest.fixture(params=CASES, ids=lambda case: case[1])
def path(request, tmp_path):
    kind, name = request.param
    build("tflite", kind(name), tmp_path, "int8")
    return tmp_path / "model.tflite"


def feeds_of(graphs, name, seed):
    """Make inputs that every graph accepts: small ids, counts within the length, finite states."""
    random = np.random.default_rng(seed)
    return {
        key: (
            random.normal(0, 1, shape).astype(np.float32)
            if len(shape) == 4
            else random.integers(0, 2, shape).astype(np.int32)
            if key == "token_types"
            else random.integers(1, 4, shape).astype(np.int32)
        )
        for key, shape in graphs.inputs(name).items()
    }


def test_both_libraries_compute_the_same(path):
    packed, interpreted = PackedGraphs(path, 1), InterpretedGraphs(path, 1)
    assert set(packed.names) == set(interpreted.names)
    for name in packed.names:
        assert packed.inputs(name) == interpreted.inputs(name)
        for seed in range(2):
            feeds = feeds_of(packed, name, seed)
            results = packed.run(name, feeds)
            expected = interpreted.run(name, feeds)
            assert results.keys() == expected.keys()
            for key, array in results.items():
                assert np.array_equal(array, expected[key]), (name, key)


@pytest.mark.parametrize("kind", [PackedGraphs, InterpretedGraphs])
def test_results_are_the_callers_and_what_is_not_taken_is_passed_over(path, kind):
    graphs = kind(path, 1)
    name = graphs.names[0]
    first = feeds_of(graphs, name, 0) | {"something else": np.zeros(3)}
    results = graphs.run(name, first)
    kept = {key: array.copy() for key, array in results.items()}
    graphs.run(name, feeds_of(graphs, name, 1))
    assert all(np.array_equal(results[key], array) for key, array in kept.items())


@pytest.mark.parametrize("kind", [PackedGraphs, InterpretedGraphs])
def test_nothing_is_written_of_a_model_that_is_closed(path, kind, capfd):
    graphs = kind(path, 1)
    graphs.run(graphs.names[0], feeds_of(graphs, graphs.names[0], 0))
    graphs.close()
    del graphs
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_weights_are_packed_once_into_a_file(path):
    assert isinstance(open_named_graphs(path, 1), PackedGraphs)
    (packed,) = (path.parent / FOLDER).iterdir()
    moment = packed.stat().st_mtime_ns
    open_named_graphs(path, 1)
    (again,) = (path.parent / FOLDER).iterdir()
    assert (again, again.stat().st_mtime_ns) == (packed, moment)


def test_without_leave_to_keep_nothing_is_written(path):
    assert isinstance(open_named_graphs(path, 1, keep_packed=False), PackedGraphs)
    assert not (path.parent / FOLDER).exists()


@pytest.mark.parametrize("error", [ImportError("none"), AttributeError("old"), RuntimeError("bad")])
def test_an_older_library_runs_the_graphs_too(path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(litert_named_graphs, "load_compiled_model", fails)
    assert isinstance(open_named_graphs(path, 1), InterpretedGraphs)


def test_a_file_that_is_none_is_refused_with_both_causes(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"no model at all")
    with pytest.raises(BackendError, match=r"(?s)model\.tflite: CompiledModel: .*; Interpreter: "):
        open_named_graphs(path, 1)

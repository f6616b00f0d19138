"""The onnxruntime back end beside its arithmetic, which tests/exporter/graph compares."""

import dataclasses
import mmap
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tiny_checkpoint import load_case, write_checkpoint

from edgewise.common.process_memory import anonymous_rss_bytes
from edgewise.exporter import export
from edgewise.runtime import load, open_bundle
from edgewise.runtime.backends.onnx import OnnxBackend
from edgewise.runtime.backends.protocol import Backend, BackendError
from edgewise.runtime.bundle import Bundle, describe_file, write_manifest

PAST = np.zeros(1, np.int32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("onnx")
    checkpoint = write_checkpoint(load_case("qwen2_tied"), folder / "checkpoint")
    return export(
        str(checkpoint),
        profile="raspberry_pi_5",
        output=folder / "bundle",
        recipe="fp32",
        verification=False,
    ).bundle


@pytest.fixture
def backend(bundle):
    backend = OnnxBackend(bundle, threads=1, slots=2, capacity=16)
    yield backend
    backend.close()


def test_it_fulfils_the_protocol(backend):
    fulfilled: Backend = backend
    assert (fulfilled.slots, fulfilled.capacity, fulfilled.vocabulary_size) == (2, 16, 300)


def test_a_second_close_does_nothing(bundle):
    backend = OnnxBackend(bundle, threads=1, capacity=16)
    backend.close()
    backend.close()


def test_slots_do_not_touch_each_other(backend):
    first = np.asarray([[5, 6, 7, 8]])
    expected = backend.step(0, first, PAST)[0].copy()
    backend.step(1, np.asarray([[9, 10, 11, 12, 13]]), PAST)
    again = backend.step(0, np.asarray([[8]]), np.asarray([3], np.int32))[0]
    assert np.abs(again - expected).max() < 1e-5


def test_a_failure_of_the_engine_is_a_backend_error(backend, capfd):
    """A token outside of the vocabulary is what a session never gives."""
    with pytest.raises(BackendError, match=r"onnxruntime [\d.]+ failed while it computed 2 tokens"):
        backend.step(0, np.asarray([[1, 300]]), PAST)
    assert np.isfinite(backend.step(0, np.asarray([[1, 299]]), PAST)).all()  # and it goes on


def test_a_graph_that_can_not_be_loaded_is_a_backend_error(bundle, tmp_path):
    shutil.copytree(bundle.path, tmp_path / "bundle")
    (tmp_path / "bundle" / "model.onnx").write_bytes(b"no graph")
    files = tuple(
        describe_file(tmp_path / "bundle", file.role, file.path) for file in bundle.manifest.files
    )
    write_manifest(tmp_path / "bundle", dataclasses.replace(bundle.manifest, files=files))
    with pytest.raises(BackendError, match=r"can not load model\.onnx of bundle: .*Export"):
        load(tmp_path / "bundle")


def test_providers_that_are_not_installed_fall_back_to_the_cpu(bundle):
    manifest = dataclasses.replace(
        bundle.manifest, execution_providers=("CUDAExecutionProvider", "XnnpackExecutionProvider")
    )
    backend = OnnxBackend(dataclasses.replace(bundle, manifest=manifest), threads=1, capacity=16)
    assert np.isfinite(backend.step(0, np.asarray([[1, 2]]), PAST)).all()
    backend.close()


def test_the_cache_takes_no_memory_before_it_is_written(bundle):
    """A long context may cost address space only. In a process of its own, whose heap is fresh."""
    capacity = 1 << 19  # tokens of 3 layers, 2 heads of 16 float32, keys and values: 384 MiB
    code = f"""
import numpy as np
from edgewise.common.process_memory import anonymous_rss_bytes
from edgewise.runtime import open_bundle
from edgewise.runtime.backends.onnx import OnnxBackend
backend = OnnxBackend(open_bundle({str(bundle.path)!r}), threads=1, capacity=16)
before = anonymous_rss_bytes()
large = OnnxBackend(open_bundle({str(bundle.path)!r}), threads=1, capacity={capacity})
large.step(0, np.asarray([[1, 2, 3]]), np.zeros(1, np.int32))
print(-1 if before is None else anonymous_rss_bytes() - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 32 << 20


def test_a_missing_manifest_file_never_reaches_the_engine(bundle, tmp_path):
    shutil.copytree(bundle.path, tmp_path / "bundle")
    (tmp_path / "bundle" / "model.onnx.data").unlink()
    with pytest.raises(Exception, match=r"model\.onnx\.data is missing"):
        open_bundle(tmp_path / "bundle")


def test_a_copied_prefix_goes_on_as_the_whole_text(backend):
    text = np.asarray([[5, 6, 7, 8, 9]])
    expected = backend.step(0, text, PAST)[0].copy()
    backend.step(1, np.asarray([[9, 10, 11, 12, 13]]), PAST)
    backend.copy_prefix(0, 1, 3)
    actual = backend.step(1, text[:, 3:], np.asarray([3], np.int32))[0]
    assert np.abs(actual - expected).max() < 1e-5


def test_one_step_tells_what_may_follow_each_of_its_tokens(backend):
    text = np.asarray([5, 6, 7, 8, 9, 10])
    one_by_one = []
    for place, token in enumerate(text):
        past = np.asarray([place], np.int32)
        one_by_one.append(backend.step(0, np.asarray([[token]]), past)[0].copy())
    assert backend.verifies
    backend.step(1, text[None, :2], PAST)
    actual = backend.verify(1, text[2:], 2)
    assert actual.shape == (4, backend.vocabulary_size)
    assert np.abs(actual - np.asarray(one_by_one[2:])).max() < 1e-5
    # Behind it the slot goes on as always.
    backend.step(1, text[None, 2:5], np.asarray([2], np.int32))
    actual = backend.step(1, text[None, 5:], np.asarray([5], np.int32))[0]
    assert np.abs(actual - one_by_one[5]).max() < 1e-5


def test_a_cache_that_was_read_goes_on_in_another_slot(backend):
    text = np.asarray([[5, 6, 7, 8, 9]])
    expected = backend.step(0, text, PAST)[0].copy()
    cache = backend.read_cache(0, 3)
    assert cache.shape[2] == 3
    backend.step(0, np.asarray([[9, 10, 11, 12, 13]]), PAST)  # what was read is a copy
    backend.step(1, np.asarray([[9, 10, 11, 12, 13]]), PAST)
    backend.write_cache(1, cache)
    actual = backend.step(1, text[:, 3:], np.asarray([3], np.int32))[0]
    assert np.abs(actual - expected).max() < 1e-5


def test_a_released_slot_gives_its_memory_back_and_works_again(bundle):
    backend = OnnxBackend(bundle, threads=1, slots=2, capacity=1 << 16)
    text = np.asarray([[5, 6, 7, 8]])
    expected = backend.step(0, text, PAST)[0].copy()
    for layer in backend._cache:
        layer[1] = 1
    backend.copy_prefix(0, 1, 4)
    full = anonymous_rss_bytes()
    backend.release(1)
    assert full - anonymous_rss_bytes() > backend.slot_bytes(1 << 16) * 9 // 10
    assert np.abs(backend.step(1, text, PAST)[0] - expected).max() < 1e-5
    assert np.abs(backend.step(0, text, PAST)[0] - expected).max() < 1e-5
    backend.close()


def test_the_bytes_of_a_slot_are_whole_pages_of_every_head(backend):
    heads_and_layers = 2 * 3 * 2  # keys and values, layers, heads
    assert backend.slot_bytes(0) == 0
    assert backend.slot_bytes(1) == backend.slot_bytes(16) == heads_and_layers * mmap.PAGESIZE

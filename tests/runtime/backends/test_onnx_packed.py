"""What the ONNX back end keeps on the disk, and when it is used again."""

import logging
import os
import shutil

import numpy as np
import onnxruntime
import pytest
from tiny_checkpoint import load_case, write_checkpoint

from edgewise.exporter import export
from edgewise.runtime import cache_folder
from edgewise.runtime.backends import onnx_packed
from edgewise.runtime.backends.onnx import OnnxBackend
from edgewise.runtime.backends.onnx_packed import CHECK, GRAPH, SUFFIX, WEIGHTS, packed_graph
from edgewise.runtime.backends.protocol import BackendError
from edgewise.runtime.bundle import open_bundle
from edgewise.runtime.cache_folder import FOLDER

VERSION = "1.30"


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch):
    monkeypatch.setattr(onnx_packed, "LEAST_BYTES", 1)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "model.onnx.data").write_bytes(b"weights")
    return folder / "model.onnx", folder / "model.onnx.data"


class Maker:
    """Counts how often a graph is packed."""

    def __init__(self):
        self.made = 0

    def __call__(self, path):
        self.made += 1
        path.write_bytes(b"packed graph")
        (path.parent / WEIGHTS).write_bytes(b"packed weights" * 20_000)


def test_a_graph_is_packed_once(files):
    make = Maker()
    first = packed_graph(*files, VERSION, make)
    assert first.name == GRAPH
    assert first.parent.parent == files[0].parent / FOLDER
    assert packed_graph(*files, VERSION, make) == first
    assert make.made == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda graph, weights, place: (place / CHECK).unlink(),
        lambda graph, weights, place: (place / WEIGHTS).write_bytes(b"packed weights" * 19_000),
        lambda graph, weights, place: (place / WEIGHTS).write_bytes(b"Packed weights" * 20_000),
        lambda graph, weights, place: (place / GRAPH).write_bytes(b"other graph!"),
        lambda graph, weights, place: weights.write_bytes(b"other weights"),
        lambda graph, weights, place: os.utime(graph, (1, 1)),
    ],
    ids=["unfinished", "cut short", "other", "other graph", "weights", "older"],
)
def test_what_is_stale_or_damaged_is_packed_anew(files, damage):
    make = Maker()
    first = packed_graph(*files, VERSION, make)
    damage(*files, first.parent)
    again = packed_graph(*files, VERSION, make)
    assert make.made == 2
    assert list((files[0].parent / FOLDER).glob(f"*{SUFFIX}")) == [again.parent]


def test_another_release_or_cpu_packs_anew(files, monkeypatch):
    make = Maker()
    packed_graph(*files, VERSION, make)
    packed_graph(*files, "1.31", make)
    monkeypatch.setattr(cache_folder, "_cpu", lambda: "another")
    packed_graph(*files, "1.31", make)
    assert make.made == 3


def test_small_models_and_full_disks_or_memories_are_left_alone(files, monkeypatch):
    monkeypatch.setattr(onnx_packed, "LEAST_BYTES", 100)
    assert packed_graph(*files, VERSION, pytest.fail) is None
    monkeypatch.setattr(onnx_packed, "LEAST_BYTES", 1)
    monkeypatch.setattr(onnx_packed, "memory_left", lambda: 20)
    assert packed_graph(*files, VERSION, pytest.fail) is None
    monkeypatch.setattr(onnx_packed, "memory_left", lambda: None)
    usage = shutil.disk_usage(files[0].parent)._replace(free=20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    assert packed_graph(*files, VERSION, pytest.fail) is None


def test_a_disk_that_fills_up_leaves_nothing_behind(files):
    def make(path):
        path.write_bytes(b"part")
        raise OSError(28, "No space left on device")

    assert packed_graph(*files, VERSION, make) is None
    assert list((files[0].parent / FOLDER).iterdir()) == []


@pytest.fixture
def bundle(tmp_path):
    checkpoint = write_checkpoint(load_case("qwen2_tied"), tmp_path / "checkpoint")
    return export(
        str(checkpoint),
        profile="raspberry_pi_5",
        output=tmp_path / "bundle",
        recipe="int4",
        verification=False,
    ).bundle


def logits_of(backend):
    text = np.asarray([[5, 6, 7, 8, 9]])
    first = backend.step(0, text, np.zeros(1, np.int32))[0].copy()
    verified = backend.verify(0, text[0], 5)
    backend.close()
    return np.vstack([first, verified])


def test_a_packed_graph_computes_the_same_bits(bundle, caplog):
    expected = logits_of(OnnxBackend(bundle, threads=1, capacity=16))
    for _ in range(2):
        packed = OnnxBackend.open_packed(bundle, threads=1, capacity=16)
        assert np.array_equal(logits_of(packed), expected)
    assert len(list((bundle.path / FOLDER).glob(f"*{SUFFIX}"))) == 1
    open_bundle(bundle.path, verify_hashes=True)
    assert not caplog.records


def test_packed_weights_that_can_not_be_loaded_are_deleted(bundle, caplog):
    OnnxBackend.open_packed(bundle, threads=1, capacity=16).close()
    (place,) = (bundle.path / FOLDER).glob(f"*{SUFFIX}")
    (place / GRAPH).write_bytes(b"no graph")
    (place / CHECK).write_text(onnx_packed._checks(place))
    expected = logits_of(OnnxBackend(bundle, threads=1, capacity=16))
    caplog.set_level(logging.INFO)
    packed = OnnxBackend.open_packed(bundle, threads=1, capacity=16)
    assert np.array_equal(logits_of(packed), expected)
    assert "are no use and are deleted" in caplog.text
    assert not place.exists()


def test_a_graph_that_can_not_be_loaded_is_told_by_its_error_alone(bundle, caplog):
    bundle.file("graph").write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"can not load model.onnx of bundle.*again\.$"):
        OnnxBackend.open_packed(bundle, threads=1, capacity=16)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_other_providers_pack_nothing(bundle, monkeypatch):
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["X", "CPUExecutionProvider"]
    )
    manifest = bundle.manifest
    object.__setattr__(manifest, "execution_providers", ("X",))
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *_arguments, **_more: pytest.fail("it was loaded")
    )
    from edgewise.runtime.backends.onnx import _load_packed  # patched above

    assert _load_packed(bundle, 1) is None

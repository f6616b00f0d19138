"""What the LiteRT back end keeps on the disk, and which graphs it takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgewise.runtime import cache_folder
from edgewise.runtime.backends.litert_cache_file import WeightCacheFile
from edgewise.runtime.backends.litert_graphs import Graph, bucket_for, next_graph
from edgewise.runtime.backends.litert_library import lacking_features, link_without_accelerators

DECODE = [Graph(f"decode_{cache}", 1, cache) for cache in (256, 512, 1024, 2048)]
PREFILL = [
    Graph(f"prefill_{t}_{c}", t, c) for t, c in ((128, 0), (128, 512), (128, 2048), (32, 2048))
]
GRAPHS = DECODE + PREFILL


@pytest.mark.parametrize(
    ("past", "remaining", "name"),
    [
        (0, 1, "decode_256"),
        (256, 1, "decode_256"),  # the new token need not be in the cache that is read
        (257, 1, "decode_512"),
        (2047, 1, "decode_2048"),
        (0, 100, "prefill_128_0"),
        (0, 500, "prefill_128_0"),
        (128, 372, "prefill_128_512"),
        (512, 100, "prefill_128_512"),
        (640, 100, "prefill_32_2048"),  # padding costs too
        (640, 128, "prefill_128_2048"),
        (640, 30, "prefill_32_2048"),
        (640, 2, "decode_1024"),
    ],
)
def test_the_graph_that_costs_least_is_taken(past, remaining, name):
    assert next_graph(GRAPHS, past, remaining).name == name


def test_every_past_and_rest_has_a_graph():
    for past in range(2048):
        for remaining in (1, 2, 31, 32, 33, 127, 128, 129, 2048 - past):
            graph = next_graph(GRAPHS, past, remaining)
            assert graph.cache >= past
            assert bucket_for(GRAPHS, past) in (0, 256, 512, 1024, 2048)


def test_a_past_beyond_every_cache_is_an_error():
    with pytest.raises(ValueError, match="no graph has a cache of 2049 positions"):
        next_graph(GRAPHS, 2049, 1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "bundle" / "model.tflite"
    path.parent.mkdir()
    path.write_bytes(b"model")
    return path


def pack(model: Path, content: bytes = b"packed" * 50_000) -> Path:
    file = WeightCacheFile(model, "2.3.0")
    assert file.usable() is None
    building = file.begin()
    assert building is not None
    building.write_bytes(content)
    file.finish(building)
    (finished,) = building.parent.iterdir()
    return finished


def test_what_was_packed_is_found_again(model):
    finished = pack(model)
    assert WeightCacheFile(model, "2.3.0").usable() == finished
    assert finished.parent == model.parent / ".cache"


@pytest.mark.parametrize(
    "damage",
    [
        lambda model, packed: packed.write_bytes(packed.read_bytes()[:-1]),
        lambda model, packed: packed.write_bytes(b"x" + packed.read_bytes()[1:]),
        lambda model, packed: packed.write_bytes(packed.read_bytes()[:-1] + b"x"),
        lambda model, packed: model.write_bytes(b"other"),
        lambda model, packed: model.write_bytes(b"longer model"),
        lambda model, packed: os.utime(model, (1, 1)),
    ],
    ids=["cut short", "other head", "other end", "rewritten", "longer", "older"],
)
def test_what_is_stale_or_damaged_is_deleted(model, damage):
    packed = pack(model)
    damage(model, packed)
    assert WeightCacheFile(model, "2.3.0").usable() is None
    assert not packed.exists()


def test_another_release_or_cpu_packs_anew(model, monkeypatch):
    pack(model)
    assert WeightCacheFile(model, "2.4.0").usable() is None
    pack(model)
    monkeypatch.setattr(cache_folder, "_cpu", lambda: "another")
    assert WeightCacheFile(model, "2.3.0").usable() is None


def test_a_bundle_that_can_not_be_written_packs_into_the_users_folder(model, tmp_path, monkeypatch):
    (model.parent / ".cache").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    packed = pack(model)
    assert packed.parent == tmp_path / "cache" / "edgewise"
    assert WeightCacheFile(model, "2.3.0").usable() == packed


def test_where_nothing_can_be_written_nothing_is_kept(model, tmp_path, monkeypatch):
    (model.parent / ".cache").write_text("in the way")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    file = WeightCacheFile(model, "2.3.0")
    assert file.usable() is None
    assert file.begin() is None


def test_an_abandoned_file_is_gone(model):
    file = WeightCacheFile(model, "2.3.0")
    building = file.begin()
    building.touch()
    file.abandon(building)
    assert not building.exists()


CPUS = Path(__file__).parents[2] / "firmware_profiles" / "data" / "cpuinfo"
NEWER = "Features\t: fp asimd aes sha2 crc32 atomics asimdhp asimdrdm lrcpc asimddp sve\n"


@pytest.mark.parametrize(
    ("board", "runs"),
    [
        ("raspberry_pi_3", False),
        ("raspberry_pi_4", False),
        ("raspberry_pi_5", True),
        ("jetson_nano", False),
        ("jetson_orin_nano", True),
    ],
)
def test_cpus_that_the_accelerators_refuse_are_known(board, runs):
    lacking = lacking_features("aarch64", (CPUS / f"{board}.txt").read_text())
    assert (not lacking) is runs


def test_every_core_counts_and_other_machines_do_not():
    assert lacking_features("aarch64", NEWER * 4) == ()
    older = "Features\t: fp asimd aes sha2 crc32 asimddp asimdhp lrcpc\n"
    assert lacking_features("aarch64", NEWER * 4 + older) == ("asimdrdm", "atomics")
    assert lacking_features("aarch64", "") == ()
    assert lacking_features("x86_64", "flags\t: sse2\n") == ()


def test_a_package_is_linked_without_its_accelerators(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    for name in ("__init__.py", "libLiteRt.so", "libLiteRtWebGpuAccelerator.so", "tools"):
        (package / name).write_text(name)
    link_without_accelerators(package, tmp_path / "links")
    linked = {path.name: path.read_text() for path in (tmp_path / "links").iterdir()}
    assert linked == {name: name for name in ("__init__.py", "libLiteRt.so", "tools")}


WITHOUT_ACCELERATORS = """
from pathlib import Path
from edgewise.runtime.backends import litert_library
litert_library.lacking_features = lambda *_: ('atomics',)
litert_library.make_importable()
from ai_edge_litert.compiled_model import CompiledModel
try:
    CompiledModel.from_file("/nonexistent.tflite")
except Exception as error:
    print(type(error).__name__)
print("Accelerator" in Path("/proc/self/maps").read_text(), CompiledModel.__module__)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_linked_package_works_and_loads_no_accelerator():
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_ACCELERATORS], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["RuntimeError", "False", "ai_edge_litert.compiled_model"]

"""Exports of models of true size stay small in memory: random weights of their shapes, from disk.

What is held against a bound is the peak RSS of the exporting process, by its own account; that of
verification is left out, which loads the bundle as a device does.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

WRITER = Path(__file__).parents[2] / "benchmarks" / "random_checkpoint.py"
MEBIBYTE = 1 << 20
# Shape: the most that an export of it may take, in MiB, and the space on disk for it, in GiB.
SHAPES = {"tinyllama-1.1b": (400, 5), "phi-2": (768, 14)}


@pytest.fixture(scope="module", params=SHAPES)
def checkpoint(request, tmp_path_factory):
    """A shape's name and a folder with weights of it, which is deleted behind the tests."""
    folder = tmp_path_factory.mktemp("shape")
    needed = SHAPES[request.param][1]
    if shutil.disk_usage(folder).free < needed << 30:
        pytest.skip(f"{request.param} takes {needed} GiB of disk while it is exported")
    specification = importlib.util.spec_from_file_location("random_checkpoint", WRITER)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.write(request.param, folder)
    yield request.param, folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("runtime", "recipe"),
    [
        ("onnx", "int4"),
        ("tflite", "int8"),
        ("tflite", "int4-block32"),
        ("tflite", "fp16"),  # the largest file: more than the 2 GiB that a flatbuffer can have
    ],
)
def test_the_peak_of_an_export(checkpoint, tmp_path, runtime, recipe):
    shape, folder = checkpoint
    bundle = tmp_path / "bundle"
    command = [sys.executable, "-m", "edgewise.cli", "export", str(folder), "--json", "--no-verify"]
    command += ["--profile", "raspberry_pi_5", "--format", runtime, "--recipe", recipe]
    command += ["--context", "512", "--force", "--output", str(bundle)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    summary = json.loads(done.stdout)
    shutil.rmtree(bundle)
    peak = summary["peak_rss_bytes"] / MEBIBYTE
    size = summary["bytes"] / MEBIBYTE
    print(f"{shape} {runtime} {summary['recipe']}: peak RSS {peak:.0f} MiB, bundle {size:.0f} MiB")
    assert peak < SHAPES[shape][0]
    # The bound means something: what is written is as large as the model.
    assert size > summary["parameters"] * 0.55 / MEBIBYTE
    if recipe == "fp16":
        assert summary["bytes"] > 1 << 31

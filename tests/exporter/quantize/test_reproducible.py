"""The same weights give the same bytes on every machine: one hash, whatever the CPU."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from edgewise.exporter.quantize import quantize_blockwise, quantize_channelwise

GOLDEN = "873c63bc207f067e8b78a7e8319f9e11e45855f864ef32c8681137d94f8f6085"


def hash_of_everything():
    random = np.random.Generator(np.random.PCG64(0))
    # Integers, a power of two and products only: these numbers themselves are the same everywhere.
    weights = random.integers(-(2**20), 2**20, (40, 640)).astype(np.float32) / 2**20
    weights = weights * weights * weights
    importance = random.integers(0, 1000, 640).astype(np.float32)
    digest = hashlib.sha256()
    for bits in (4, 8):
        for block_size in (32, 64, 128):
            for symmetric in (True, False):
                for given in (None, importance):
                    quantized = quantize_blockwise(
                        weights,
                        bits=bits,
                        block_size=block_size,
                        symmetric=symmetric,
                        importance=given,
                    )
                    for array in quantized.arrays().values():
                        digest.update(array.tobytes())
    for array in quantize_channelwise(weights).arrays().values():
        digest.update(array.tobytes())
    return digest.hexdigest()


def test_on_this_cpu():
    assert hash_of_everything() == GOLDEN


@pytest.mark.parametrize("disabled", ["X86_V3 X86_V4", "AVX2 FMA3 AVX512F AVX512_SKX"])
def test_without_the_cpus_wider_instructions(disabled):
    # Older numpy names the features of the second set; names that a numpy does not know warn only.
    program = "import runpy, sys\nprint(runpy.run_path(sys.argv[1])['hash_of_everything']())"
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, __file__],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled},
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout.strip() == GOLDEN

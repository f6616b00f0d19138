"""What a calibration needs does not grow with the layers of the model."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_checkpoint import load_case, write_checkpoint

SCRIPT = """
import sys
from pathlib import Path

import numpy as np

from edgewise.common.process_memory import peak_rss_bytes
from edgewise.exporter import open_checkpoint
from edgewise.exporter.calibration.calibrate import calibrate
from edgewise.exporter.planning import make_plan
from edgewise.firmware_profiles import load_profile

with open_checkpoint(sys.argv[1]) as checkpoint:
    plan = make_plan(checkpoint, load_profile("x86_64"), runtime="onnx", recipe="int4")
    windows = np.random.default_rng(0).integers(3, 60, (4, 256))
    before = peak_rss_bytes()
    calibrated = calibrate(checkpoint, plan, windows, Path(sys.argv[2]), lambda *_: None)
print(len(calibrated.prepared), peak_rss_bytes() - before)
"""
SIZES = {"hidden_size": 256, "intermediate_size": 640, "num_attention_heads": 4,
         "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 256}  # fmt: skip
LAYER_BYTES = 4 * (4 * 256 * 256 + 3 * 256 * 640)
CACHE_BYTES = 4 * 2 * 1024 * 256


def peak(tmp_path: Path, layers: int) -> int:
    case = load_case("llama_tied_wide_head")
    config = case.config | SIZES | {"num_hidden_layers": layers}
    folder = write_checkpoint(replace(case, config=config), tmp_path / f"layers{layers}")
    codes = tmp_path / f"codes{layers}"
    codes.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(codes)],
        capture_output=True,
        text=True,
        check=True,
    )
    matrices, grown = map(int, result.stdout.split())
    assert matrices == 7 * layers
    return grown


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from Linux's /proc")
def test_more_layers_need_no_more_memory(tmp_path):
    few, many = peak(tmp_path, 2), peak(tmp_path, 10)
    assert many - few < 2 * LAYER_BYTES + CACHE_BYTES  # eight layers would be four times as much

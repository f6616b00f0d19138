"""Our .tflite beside the one that litert-torch converts from the same checkpoint.

`scripts/test --litert-torch` makes the environment that this needs.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import load_case, write_checkpoint

from edgewise.exporter import export
from edgewise.runtime.backends.litert import LitertBackend

PYTHON = os.environ.get("EDGEWISE_LITERT_TORCH")
SCRIPT = Path(__file__).parent / "litert_torch_logits.py"
TOLERANCE = 1e-4

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.timeout(900),
    pytest.mark.skipif(PYTHON is None, reason="run by scripts/test --litert-torch"),
]


# Not "llama_tinyllama_ratio": litert-torch 0.10 converts eight heads that share one key-value head
# to a graph whose logits are 12 off those of the PyTorch model it was given.
@pytest.mark.parametrize("name", ["llama_tied_wide_head", "qwen2_untied"])
def test_both_converters_give_the_same_logits(tmp_path, name):
    case = load_case(name)
    ids = list(case.sequences[0])
    checkpoint = write_checkpoint(case, tmp_path / "checkpoint")
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    command = [str(PYTHON), str(SCRIPT), str(checkpoint), str(tmp_path / "ids.json")]
    result = subprocess.run(
        [*command, str(tmp_path / "logits.npy")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    expected = np.load(tmp_path / "logits.npy")
    bundle = export(
        str(checkpoint),
        profile="x86_64",
        runtime="tflite",
        recipe="fp32",
        output=tmp_path / "bundle",
    ).bundle
    backend = LitertBackend(bundle, threads=1, capacity=len(ids))
    for position, token in enumerate(ids):
        past = np.asarray([position], np.int32)
        actual = backend.step(0, np.asarray([[token]]), past)[0]
        assert np.abs(actual - expected[position]).max() < TOLERANCE
    backend.close()

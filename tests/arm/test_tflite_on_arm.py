"""TFLite graphs under qemu-user, run by the real Arm wheels: what x86 computes, Arm computes.

`scripts/arm` fetches what this needs. The emulator runs the instructions of the CPU that it is told
to be, so a kernel that a board does not have ends the process here too; its speed says nothing.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import TinyModel, load_case

from edgewise.exporter.graph.tflite_builder import (
    CACHE_NAMES,
    NEW_NAMES,
    Signature,
    TfliteBuilder,
)
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_weights import LITERT, TFLITE_RUNTIME, WeightStore
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.runtime.manifest import CACHE_AXES, CacheLayout

ARM = os.environ.get("EDGEWISE_ARM")
pytestmark = pytest.mark.skipif(ARM is None, reason="run by scripts/arm")

ROOT = Path(__file__).parents[2]
CONTEXT = 64
GRAPHS = (Signature(1, 16), Signature(1, CONTEXT), Signature(8, 0), Signature(8, CONTEXT))
FEATURES = {  # as Linux lists them
    "cortex-a53": "fp asimd evtstrm crc32 cpuid",
    "cortex-a72": "fp asimd evtstrm crc32 cpuid",
    "cortex-a76": "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm "
    "lrcpc dcpop asimddp",
}
PARTS = {"cortex-a53": "0xd03", "cortex-a72": "0xd08", "cortex-a76": "0xd0b"}
RUN = """
import json, sys
import numpy as np
from pathlib import Path
from types import SimpleNamespace
from edgewise.runtime.backends.litert import LitertBackend
from edgewise.runtime.manifest import CacheLayout
path, layout, vocabulary, context, sequence = json.loads(sys.stdin.read())
manifest = SimpleNamespace(
    cache=CacheLayout(**layout), vocabulary_size=vocabulary, labels=(), minimum_versions={}
)
bundle = SimpleNamespace(path=Path(path).parent, file=lambda role: Path(path), manifest=manifest)
backend = LitertBackend(bundle, threads=1, capacity=context, keep_packed=False)
rows = [backend.step(0, np.array([sequence[:9]]), np.zeros(1, np.int32))[0].copy()]
for at in range(9, len(sequence)):
    ids, past = np.array([sequence[at:at + 1]]), np.array([at], np.int32)
    rows.append(backend.step(0, ids, past)[0].copy())
print(type(backend._engine).__name__, json.dumps(np.stack(rows).tolist()))
"""


@pytest.fixture(scope="module")
def case():
    return load_case("qwen2_untied")


@pytest.fixture
def packages(tmp_path):
    """A folder from which `edgewise` is imported without being installed."""
    package = tmp_path / "packages" / "edgewise"
    package.mkdir(parents=True)
    for name in ("common", "runtime", "firmware_profiles"):
        (package / name).symlink_to(ROOT / name)
    return package.parent


def build(case, folder: Path, recipe: str, release) -> str:
    model, file = TinyModel(case), TfliteFile()
    weights = WeightStore(file, Recipe.parse(recipe), release)
    for signature in GRAPHS:
        builder = TfliteBuilder(file, weights, signature, CONTEXT)
        model.forward(builder)
        builder.finish()
    file.write(folder / "model.tflite")
    c = model.configuration
    sizes = (c.layers, c.key_value_heads, c.head_size)
    layout = CacheLayout(*sizes, "float32", CACHE_AXES, *CACHE_NAMES, *NEW_NAMES)
    sequence = list(case.sequences[0])
    return json.dumps(
        [
            str(folder / "model.tflite"),
            dataclasses.asdict(layout),
            c.vocabulary_size,
            CONTEXT,
            sequence,
        ]
    )


def run(command: list[str], given: str) -> tuple[str, np.ndarray]:
    result = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    engine, _, rows = result.stdout.partition(" ")
    return engine, np.asarray(json.loads(rows))


def on_this_machine(given: str) -> np.ndarray:
    return run([sys.executable, "-c", RUN], given)[1]


def sysroot_of(cpu: str, tmp_path: Path) -> Path:
    """The sysroot with what a board's kernel says of its CPU: libraries read it."""
    root = tmp_path / cpu
    subprocess.run(["cp", "-rs", f"{ARM}/arm64", str(root)], check=True)
    (root / "proc").mkdir(exist_ok=True)
    (root / "sys/devices/system/cpu").mkdir(parents=True, exist_ok=True)
    core = (
        "processor\t: {}\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        "CPU variant\t: 0x0\nCPU part\t: {}\nCPU revision\t: 3\n\n"
    )
    information = "".join(core.format(i, FEATURES[cpu], PARTS[cpu]) for i in range(4))
    (root / "proc/cpuinfo").write_text(information)
    for name in ("present", "possible", "online"):
        (root / "sys/devices/system/cpu" / name).write_text("0-3\n")
    return root


def emulator(machine: str, cpu: str, root: Path, path: str) -> list[str]:
    program = f"qemu-{machine}-static"
    return [program, "-E", f"PYTHONPATH={path}", "-cpu", cpu, "-L", str(root)]


def relative_error(actual, expected) -> float:
    errors = np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return float(errors.max())


# Arm's kernels for int4 blocks round activations another way; both are 3% off the exact product.
TOLERANCES = {"fp32": 1e-5, "fp16": 1e-5, "int8": 1e-5, "int4": 0.03}


@pytest.mark.parametrize("cpu", FEATURES)
@pytest.mark.parametrize("recipe", TOLERANCES)
def test_64_bit_arm_computes_what_this_machine_does(case, packages, tmp_path, cpu, recipe):
    given = build(case, tmp_path, recipe, LITERT)
    root = sysroot_of(cpu, tmp_path)
    path = f"{ARM}/arm64-wheels:{packages}"
    python = root / "usr/bin/python3.13"
    engine, actual = run(
        [
            "qemu-aarch64-static",
            "-E",
            f"PYTHONPATH={path}",
            "-cpu",
            cpu,
            "-L",
            str(root),
            str(python),
            "-c",
            RUN,
        ],
        given,
    )
    assert engine == "CompiledEngine"
    assert relative_error(actual, on_this_machine(given)) < TOLERANCES[recipe]


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_32_bit_arm_computes_what_this_machine_does(case, packages, tmp_path, recipe):
    given = build(case, tmp_path, recipe, TFLITE_RUNTIME)
    root = Path(str(ARM)) / "armhf"
    path = f"{ARM}/armhf-wheels:{packages}:{root}/usr/lib/python3/dist-packages"
    python = root / "usr/bin/python3.11"
    engine, actual = run(
        [*emulator("arm", "cortex-a15", root, path), str(python), "-c", RUN], given
    )
    assert engine == "InterpreterEngine"
    assert relative_error(actual, on_this_machine(given)) < TOLERANCES[recipe]

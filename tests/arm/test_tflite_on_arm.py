"""TFLite graphs under qemu-user, run by the real Arm wheels: what x86 computes, Arm computes.

`scripts/arm` fetches what this needs.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from arm_emulation import (
    ARM,
    FEATURES,
    command_32_bit,
    command_64_bit,
    output_of,
    packages_folder,
    relative_error,
)
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

pytestmark = pytest.mark.skipif(ARM is None, reason="run by scripts/arm")

CONTEXT = 64
GRAPHS = (Signature(1, 16), Signature(1, CONTEXT), Signature(8, 0), Signature(8, CONTEXT))
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
    return packages_folder(tmp_path)


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
    engine, _, rows = output_of(command, given).partition(" ")
    return engine, np.asarray(json.loads(rows))


def on_this_machine(given: str) -> np.ndarray:
    return run([sys.executable, "-c", RUN], given)[1]


# Arm's kernels for int4 blocks round activations another way; both are 3% off the exact product.
TOLERANCES = {"fp32": 1e-5, "fp16": 1e-5, "int8": 1e-5, "int4": 0.03}


@pytest.mark.parametrize("cpu", FEATURES)
@pytest.mark.parametrize("recipe", TOLERANCES)
def test_64_bit_arm_computes_what_this_machine_does(case, packages, tmp_path, cpu, recipe):
    given = build(case, tmp_path, recipe, LITERT)
    engine, actual = run(command_64_bit(cpu, packages, tmp_path, "-c", RUN), given)
    assert engine == "CompiledEngine"
    assert relative_error(actual, on_this_machine(given)) < TOLERANCES[recipe]


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_32_bit_arm_computes_what_this_machine_does(case, packages, tmp_path, recipe):
    given = build(case, tmp_path, recipe, TFLITE_RUNTIME)
    engine, actual = run(command_32_bit(packages, "-c", RUN), given)
    assert engine == "InterpreterEngine"
    assert relative_error(actual, on_this_machine(given)) < TOLERANCES[recipe]

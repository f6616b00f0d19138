"""TFLite graphs under qemu-user, run by the real Arm wheels: what x86 computes, Arm computes.

`scripts/arm_environment.sh` fetches what this needs. One process of the emulator runs all graphs,
for it takes seconds to start.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from arm_emulation import (
    FEATURES,
    command_32_bit,
    command_64_bit,
    needs_arm,
    output_of,
    packages_folder,
    relative_error,
)
from tiny_checkpoint import TinyModel, load_case

from edgewise.exporter.graph.tflite_builder import TfliteBuilder
from edgewise.exporter.graph.tflite_cache import CACHE_NAMES, NEW_NAMES
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_signatures import Signature
from edgewise.exporter.graph.tflite_weights import LITERT, TFLITE_RUNTIME, WeightStore
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.runtime.manifest import CACHE_AXES, CacheLayout

pytestmark = needs_arm

CONTEXT = 64
GRAPHS = (Signature(1, 16), Signature(1, CONTEXT), Signature(8, 0), Signature(8, CONTEXT))
RUN = """
import json, sys
import numpy as np
from pathlib import Path
from types import SimpleNamespace
from edgewise.runtime.backends.litert import LitertBackend
from edgewise.runtime.manifest import CacheLayout
paths, layout, vocabulary, context, sequence = json.loads(sys.stdin.read())
manifest = SimpleNamespace(
    cache=CacheLayout(**layout), vocabulary_size=vocabulary, labels=(), minimum_versions={}
)
results = {}
for recipe, path in paths.items():
    bundle = SimpleNamespace(
        path=Path(path).parent, file=lambda role: Path(path), manifest=manifest
    )
    backend = LitertBackend(bundle, threads=1, capacity=context, keep_packed=False)
    rows = [backend.step(0, np.array([sequence[:9]]), np.zeros(1, np.int32))[0].copy()]
    for at in range(9, len(sequence)):
        ids, past = np.array([sequence[at:at + 1]]), np.array([at], np.int32)
        rows.append(backend.step(0, ids, past)[0].copy())
    results[recipe] = type(backend._engine).__name__, np.stack(rows).tolist()
print(json.dumps(results))
"""
# Arm's kernels for int4 blocks round activations another way; both are 3% off the exact product.
TOLERANCES = {"fp32": 1e-5, "fp16": 1e-5, "int8": 1e-5, "int4": 0.03}


@pytest.fixture(scope="module")
def case():
    return load_case("qwen2_untied")


def build(case, folder: Path, recipes, release) -> str:
    """Write a model in each recipe and return what the program reads."""
    model, paths = TinyModel(case), {}
    for recipe in recipes:
        file = TfliteFile()
        weights = WeightStore(file, Recipe.parse(recipe), release)
        for signature in GRAPHS:
            builder = TfliteBuilder(file, weights, signature, CONTEXT)
            model.forward(builder)
            builder.finish()
        paths[recipe] = str(folder / recipe / "model.tflite")
        Path(paths[recipe]).parent.mkdir()
        file.write(Path(paths[recipe]))
    c = model.configuration
    sizes = (c.layers, c.key_value_heads, c.head_size)
    layout = CacheLayout(*sizes, "float32", CACHE_AXES, *CACHE_NAMES, *NEW_NAMES)
    sequence = list(case.sequences[0])
    return json.dumps([paths, dataclasses.asdict(layout), c.vocabulary_size, CONTEXT, sequence])


def run(command: list[str], given: str) -> dict[str, tuple[str, np.ndarray]]:
    """Return the engine and the logits of each recipe: [steps, vocabulary]."""
    results = json.loads(output_of(command, given))
    return {recipe: (engine, np.asarray(rows)) for recipe, (engine, rows) in results.items()}


def assert_close(actual, expected, engine):
    """Compare what Arm computed with what this machine did."""
    assert actual.keys() == expected.keys()
    errors = {recipe: relative_error(actual[recipe][1], expected[recipe][1]) for recipe in actual}
    assert all(error < TOLERANCES[recipe] for recipe, error in errors.items()), errors
    assert {actual[recipe][0] for recipe in actual} == {engine}


@pytest.fixture(scope="module")
def given(case, tmp_path_factory):
    return build(case, tmp_path_factory.mktemp("graphs"), TOLERANCES, LITERT)


@pytest.fixture(scope="module")
def expected(given):
    return run([sys.executable, "-c", RUN], given)


@pytest.mark.parametrize("cpu", FEATURES)
def test_64_bit_arm_computes_what_this_machine_does(given, expected, tmp_path, cpu):
    command = command_64_bit(cpu, packages_folder(tmp_path), tmp_path, "-c", RUN)
    assert_close(run(command, given), expected, "CompiledEngine")


def test_32_bit_arm_computes_what_this_machine_does(case, tmp_path):
    given = build(case, tmp_path, ["fp32", "int8"], TFLITE_RUNTIME)
    expected = run([sys.executable, "-c", RUN], given)
    command = command_32_bit(packages_folder(tmp_path), "-c", RUN)
    assert_close(run(command, given), expected, "InterpreterEngine")

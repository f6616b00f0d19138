"""Every shipped recipe on one tiny model of each decoder family, by each runtime.

What a graph computes is held against the reference over the numbers that its stored weights stand
for: what is left is what int8 activations cost, and nothing where there are none.
"""

import numpy as np
import pytest
from decoder_graphs import Dequantized, built, step
from tiny_checkpoint import TinyModel, load_case

from edgewise.exporter.graph.numpy_builder import NumpyBuilder

FAMILIES = ("phi_half_rotary", "phi_score")
# Largest relative error of the logits. With float activations: rounding. With int8 activations:
# measured at 0.04 and below.
EXACT, INT8_ACTIVATIONS = 1e-4, 0.08
RECIPES = {
    "onnx": {
        "fp16": EXACT,
        "int4-block32,activations=float32": EXACT,
        "int8-block32-asymmetric,activations=float32": EXACT,
        "int8": INT8_ACTIVATIONS,
        "int4": INT8_ACTIVATIONS,
        "int8-block32": INT8_ACTIVATIONS,
        "int4,head=int8": INT8_ACTIVATIONS,
    },
    "tflite": {
        "fp16": EXACT,
        "int8": INT8_ACTIVATIONS,
        "int4": INT8_ACTIVATIONS,
        "int8,mlp=int4-block32": INT8_ACTIVATIONS,
    },
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("runtime", "recipe", "bound"),
    [
        (runtime, recipe, bound)
        for runtime, recipes in RECIPES.items()
        for recipe, bound in recipes.items()
    ],
)
def test_a_recipe_stays_near_its_stored_weights(tmp_path, name, runtime, recipe, bound):
    case = load_case(name)
    backend = built(runtime, TinyModel(case), tmp_path, recipe)
    reference = NumpyBuilder(np.asarray([case.sequences[0]]))
    Dequantized(case, recipe, runtime).forward(reference)
    expected = reference.logits[0, -8:]
    rows = [step(backend, 0, case.sequences[0][:-7], 0)]
    for position in range(len(case.sequences[0]) - 7, len(case.sequences[0])):
        rows.append(step(backend, 0, case.sequences[0][position : position + 1], position))
    error = np.linalg.norm(np.stack(rows) - expected) / np.linalg.norm(expected)
    print(f"{name} {runtime} {recipe}: {error:.2g}")
    assert error < bound

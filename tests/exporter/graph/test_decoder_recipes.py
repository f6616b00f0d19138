"""Every shipped recipe on one tiny model of each decoder family, by each runtime.

What a graph computes is held against the reference over the numbers that its stored weights stand
for: what is left is what int8 activations cost, and nothing where there are none.
"""

import numpy as np
import pytest
from decoder_graphs import Dequantized, built, step
from tiny_checkpoint import TinyModel, load_case

from edgewise.exporter.graph.numpy_builder import NumpyBuilder

FAMILIES = (
    "phi_half_rotary",
    "phi_score",
    "qwen3_tied",
    "phi3_window",
    "phi3_long_rope",
    "gemma3_windows",
    "gpt2_tied",
    "gpt2_narrow_heads",
    "qwen2_tied",
    "llama_tinyllama_ratio",
    "llama_narrow_heads",
)
# Largest relative error of the logits. With float activations: rounding. With int8 activations:
# measured at 0.12 and below.
EXACT, INT8_ACTIVATIONS = 1e-4, 0.15
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
    sequence = case.sequences[0]
    rows = [step(backend, 0, sequence[:-7], 0)]
    ends = range(len(sequence) - 7, len(sequence))
    rows += [step(backend, 0, sequence[end : end + 1], end) for end in ends]
    error = np.linalg.norm(np.stack(rows) - expected) / np.linalg.norm(expected)
    print(f"{name} {runtime} {recipe}: relative error of the logits {error:.2g}")
    assert error < bound

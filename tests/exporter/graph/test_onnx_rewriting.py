"""Rewritten graphs against the traced ones over the numbers that the recipe stores."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from traced_cases import (
    CASES,
    DECODERS,
    POSITIONS,
    VOCABULARY,
    bundle_of,
    expected_of,
    folder_of,
)

from edgewise.exporter.graph.onnx_graph import LARGEST_INLINE
from edgewise.exporter.graph.onnx_rewriting import named_graph, result_names, rewritten_graph
from edgewise.exporter.graph.onnx_traced import TracedGraph, TracedMatrix
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.quantize.recipes import Recipe, WeightFormat
from edgewise.exporter.quantize.streaming import quantize_tensors
from edgewise.runtime.backends.onnx_encoder import OnnxEncoderBackend
from edgewise.runtime.backends.onnx_growing import OnnxGrowingBackend

TOLERANCE = 2e-5  # the results are within 6
MIXED = (
    "int4-block64-asymmetric,embedding=fp16,mlp=int8-block32,head=fp32,activations=float32",
    "fp32,embedding=int8,attention=int4-block128,mlp=fp16,head=int8-block32,activations=float32",
)
EXACT_RECIPES = ("fp32", "fp16", "int4,activations=float32", *MIXED)


def stored_numbers(matrix: TracedMatrix, form: WeightFormat) -> np.ndarray:
    if form.kind == "float16":
        return matrix.read().astype(np.float16).astype(np.float32)
    quantized = quantize_tensors([matrix], form)
    return matrix.read() if quantized is None else quantized.dequantize()


def write_as_stored(traced: TracedGraph, recipe: Recipe, path: Path) -> Path:
    """Write the traced graph with each matrix replaced by what the recipe stores of it."""
    model = onnx.load(str(traced.path))
    for node in model.graph.node:
        edge = node.output[0]
        if edge in traced.lookups:
            place, turned = 0, False
            numbers = stored_numbers(traced.embedding, recipe.format_for("embedding"))
        elif edge in traced.products:
            product = traced.products[edge]
            attributes = [item.name for item in node.attribute if item.i]
            place, turned = 1, "transB" not in attributes
            numbers = stored_numbers(product.matrix, recipe.format_for(product.role))
        else:
            continue
        name = f"{edge}/stored"
        array = np.ascontiguousarray(numbers.T if turned else numbers)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        node.input[place] = name
    onnx.save_model(model, str(path))
    return path


def rewritten(traced: TracedGraph, recipe: Recipe, folder: Path) -> Path:
    folder.mkdir()
    visited: list[str] = []
    with WeightFile(folder / "weights") as weights:
        model = rewritten_graph(traced, weights, recipe, visited.append)
    assert set(visited) == {traced.embedding.name} | {
        product.matrix.name for product in traced.products.values()
    }
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def results(name: str, path: Path) -> dict[str, np.ndarray]:
    """Run a graph over the stored token ids."""
    stored = expected_of(name)
    ids, mask = stored["ids"], stored["mask"]
    if name in DECODERS:
        bundle = bundle_of(name, path)
        decoder = OnnxGrowingBackend(bundle, threads=1, slots=2, capacity=POSITIONS)
        past = np.zeros(2, np.int32)
        return {
            "prompt": decoder.step(0, ids[:, :8], past),
            "next": decoder.step(0, ids[:, 8:9], past + 8),
        }
    encoder = OnnxEncoderBackend(path, threads=1, capacity=POSITIONS)
    return dict(encoder.encode(ids, mask.sum(axis=1).astype(np.int32)))


def last(actual: dict[str, np.ndarray]) -> np.ndarray:
    return next(iter(actual.values()))


@pytest.mark.parametrize("recipe", EXACT_RECIPES)
@pytest.mark.parametrize("name", CASES)
def test_a_rewritten_graph_computes_with_what_the_recipe_stores(name, recipe, tmp_path):
    traced = TracedGraph(folder_of(name) / "model.onnx")
    parsed = Recipe.parse(recipe)
    actual = results(name, rewritten(traced, parsed, tmp_path / "new"))
    expected = results(name, write_as_stored(traced, parsed, tmp_path / "old.onnx"))
    if name in DECODERS:
        for part, array in expected.items():
            assert np.abs(actual[part] - array).max() < TOLERANCE
        return
    (old,) = (array for key, array in expected.items() if key in {"logits", "last_hidden_state"})
    new = actual["hidden_states" if name == "albert_features" else "logits"]
    assert np.abs(new.reshape(old.shape) - old).max() < TOLERANCE


@pytest.mark.parametrize("recipe", ["int8", "int4", "int8-block32"])
@pytest.mark.parametrize("name", CASES)
def test_int8_activations_stay_near(name, recipe, tmp_path):
    traced = TracedGraph(folder_of(name) / "model.onnx")
    parsed = Recipe.parse(recipe)
    actual = last(results(name, rewritten(traced, parsed, tmp_path / "new")))
    exact = last(results(name, rewritten(traced, Recipe.parse("fp32"), tmp_path / "exact")))
    difference = float(np.abs(actual - exact).max() / np.abs(exact).max())
    print(f"{name} {recipe}: {difference:.3f} of the largest result")
    assert 1e-5 < difference < (0.25 if recipe == "int4" else 0.03)


@pytest.mark.parametrize("name", CASES)
def test_the_named_graph_is_the_traced_one_beside_its_own_weights(name, tmp_path):
    traced = TracedGraph(folder_of(name) / "model.onnx")
    with WeightFile(tmp_path / "constants") as constants:
        model = named_graph(traced, constants)
        assert constants.nbytes == 0
    path = tmp_path / "named.onnx"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "weights.bin").write_bytes((folder_of(name) / "weights.bin").read_bytes())
    exact = rewritten(traced, Recipe.parse("fp32"), tmp_path / "exact")
    for key, array in results(name, exact).items():
        assert np.array_equal(results(name, path)[key], array)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_gives_the_logits_of_the_last_token_alone(name, tmp_path):
    traced = TracedGraph(folder_of(name) / "model.onnx")
    model = onnx.load(str(rewritten(traced, Recipe.parse("fp32"), tmp_path / "new")))
    (logits,) = (item for item in model.graph.output if item.name == "logits")
    assert [item.dim_value for item in logits.type.tensor_type.shape.dim][1:] == [1, VOCABULARY]
    assert result_names(traced) == ("logits",)


def test_an_encoders_results_have_our_names_and_shapes(tmp_path):
    for name, names in (
        ("albert_features", ("hidden_states", "mean")),
        ("electra_classify", ("logits",)),
    ):
        traced = TracedGraph(folder_of(name) / "model.onnx")
        assert result_names(traced) == names
        actual = results(name, rewritten(traced, Recipe.parse("fp32"), tmp_path / name))
        assert tuple(actual) == names
        stored = expected_of(name)
        if name == "electra_classify":
            assert actual["logits"].shape == (2, 1, 3)
            assert np.abs(actual["logits"][:, 0] - stored["result"]).max() < TOLERANCE
            continue
        for row, count in enumerate(stored["mask"].sum(axis=1)):
            states = stored["result"][row, :count]
            assert np.abs(actual["hidden_states"][row, :count] - states).max() < TOLERANCE
            assert np.abs(actual["mean"][row, 0] - states.mean(axis=0)).max() < TOLERANCE


def test_a_tied_head_and_shared_layers_are_stored_once(tmp_path):
    for name in ("opt_tied", "albert_features"):
        traced = TracedGraph(folder_of(name) / "model.onnx")
        path = rewritten(traced, Recipe.parse("fp32"), tmp_path / name)
        numbers = sum(int(np.prod(shape)) for shape, _ in traced.tensors.values())
        size = path.with_name("weights").stat().st_size
        padding = 4096 * len(traced.tensors)
        assert size <= 4 * numbers + padding
        model = onnx.load(str(path), load_external_data=False)
        places = {
            entry.value
            for item in model.graph.initializer
            for entry in item.external_data
            if entry.key == "offset" and len(item.dims) == 2
        }
        matrices = [shape for shape, _ in traced.tensors.values() if len(shape) == 2]
        assert len(places) == sum(np.prod(shape) * 4 > LARGEST_INLINE for shape in matrices)

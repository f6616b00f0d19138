"""The bytes that a plan counts are those that its export writes, and a budget is what it says."""

import math

import onnx
import pytest

from edgewise.exporter import export, open_checkpoint
from edgewise.exporter.budget import model_size
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.model_size import weights_bytes
from edgewise.exporter.planning import make_plan
from edgewise.exporter.quantize.lookup_blocks import lookup_format
from edgewise.exporter.quantize.recipes import WeightFormat
from edgewise.firmware_profiles import load_profile

MIXED = [
    "fp32",
    "int8",
    "int4",
    "int8-block32",
    "int8-block128",
    "int8-block64,activations=float32",
    "int4-block64-asymmetric,embedding=int8-block128,head=int8-block128",
    "int4-block128-asymmetric,attention=int8,head=fp32",
    "int8,mlp=int4-block32,embedding=int4-block128",
    "int4,mlp=int8-block128-asymmetric,embedding=fp32,activations=float32",
]
MODELS = ["llama_tied_wide_head", "gpt2_tied", "phi_two_fifths_rotary", "qwen2_untied"]


def plan_of(folder, recipe, runtime):
    with open_checkpoint(str(folder)) as checkpoint:
        return make_plan(checkpoint, load_profile("x86_64"), runtime=runtime, recipe=recipe)


def predicted(plan):
    engine = plan.profile.runtime
    return weights_bytes(model_size(plan), plan.formats, engine, plan.activations)


def onnx_bytes(plan, folder):
    """Sum the graph's weights, each piece of the file once."""
    stems = tuple({name.rsplit(".", 1)[0] for name in plan.tensors})
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    pieces = {}
    for proto in graph.initializer:
        if not proto.name.startswith(stems) or proto.name.endswith(".offset"):
            continue  # of the graph, not of the model
        place = {entry.key: entry.value for entry in proto.external_data}
        size = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type).itemsize
        pieces[place.get("offset", proto.name)] = int(
            place.get("length", size * math.prod(proto.dims))
        )
    return sum(pieces.values())


@pytest.mark.parametrize("recipe", MIXED)
@pytest.mark.parametrize("model", MODELS)
def test_onnx_weights_are_as_many_bytes_as_predicted(tiny_folder, tmp_path, model, recipe):
    plan = plan_of(tiny_folder(model), recipe, "onnx")
    bundle = export(
        str(tiny_folder(model)), profile="x86_64", runtime="onnx", recipe=recipe,
        output=tmp_path / "bundle", context_length=64, verification=False,
    ).bundle  # fmt: skip
    assert onnx_bytes(plan, bundle.path) == predicted(plan)
    assert bundle.manifest.recipe == str(plan.recipe)
    assert dict(bundle.manifest.formats) == plan.formats


@pytest.mark.parametrize("recipe", ["fp32", "fp16", "int8", "int4", "int8,mlp=int4-block32"])
@pytest.mark.parametrize("model", MODELS)
def test_tflite_weights_are_as_many_bytes_as_predicted(
    tiny_folder, tmp_path, monkeypatch, model, recipe
):
    plan = plan_of(tiny_folder(model), recipe, "tflite")
    arrays = {}
    add_array = TfliteFile.add_array

    def spy(self, name, nbytes, write):
        arrays[name] = nbytes
        return add_array(self, name, nbytes, write)

    monkeypatch.setattr(TfliteFile, "add_array", spy)
    export(
        str(tiny_folder(model)), profile="x86_64", runtime="tflite", recipe=recipe,
        output=tmp_path / "bundle", context_length=64, verification=False,
    )  # fmt: skip
    formats = tuple(f".{form}" for form in ("fp32", "fp16", "int8", "int4-block32"))
    stored = {
        name: size
        for name, size in arrays.items()
        if name.removesuffix(".scales").endswith(formats)
    }
    # The scales of channels stand in the header, but for those of a vocabulary.
    rows = sum(
        tensor.stored_shape[0]
        for tensor in plan.tensors.values()
        if tensor.role in ("attention", "mlp") and plan.formats[tensor.role] == "int8"
    )
    # Positions are a constant of the graph.
    positions = sum(t.parameters for t in plan.tensors.values() if t.role == "position")
    assert sum(stored.values()) + 4 * rows + 4 * positions == predicted(plan)


@pytest.mark.parametrize(
    ("text", "widths", "expected"),
    [
        ("int8-block128", [576], "int8-block64"),
        ("int8-block128", [384], "int8-block128"),
        ("int4-block128-asymmetric", [96], "int4-block32-asymmetric"),
        ("int8-block64", [128, 96], "int8-block32"),
        ("int4-block32", [50], "int8"),
        ("int8", [50], "int8"),
        ("keep", [50], "keep"),
        ("int4-block128", [], "int4-block128"),
    ],
)
def test_an_embedding_has_the_nearest_blocks_that_divide_its_rows(text, widths, expected):
    assert str(lookup_format(WeightFormat.parse(text), widths)) == expected


def test_a_tied_head_shares_the_embeddings_blocks(tiny_folder):
    plan = plan_of(tiny_folder("llama_tied_wide_head"), "int4,head=int8-block128", "onnx")
    assert str(plan.recipe) == "int4,head=int8-block128"
    plan = plan_of(tiny_folder("llama_tied_wide_head"), "int8-block128", "onnx")
    formats = plan.formats
    assert formats["embedding"] == formats["head"] == "int8-block64"
    assert formats["mlp"] == "int8-block128"
    untied = plan_of(tiny_folder("qwen2_untied"), "int8-block128", "onnx").formats
    assert (untied["embedding"], untied["head"]) == ("int8-block64", "int8-block128")


def test_tflite_recipes_stay_as_they_are(tiny_folder):
    plan = plan_of(tiny_folder("llama_tied_wide_head"), "int4-block128", "tflite")
    assert plan.formats["embedding"] == "int4-block128"  # refused as its file is made


def test_a_mixed_budget_is_what_is_written(tiny_folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(" Hello, who are you? " * 400)
    folder = str(tiny_folder("llama_tied_wide_head"))
    for recipe in ("int4-block64-asymmetric,embedding=int8-block128,head=int8-block128", "int8"):
        plan = plan_of(folder, recipe, "onnx")
        budget = predicted(plan) + 9000
        bundle = export(
            folder, profile="x86_64", runtime="onnx", output=tmp_path / recipe[:4], recipe=recipe,
            calibrate=text, budget=budget, force=True, context_length=64, verification=False,
        ).bundle  # fmt: skip
        assert bundle.manifest.calibration.formats
        written = onnx_bytes(plan, bundle.path)
        assert predicted(plan) < written <= budget

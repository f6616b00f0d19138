"""Recipes as profiles write them: exporter's grammar, and what each runtime can compute."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.exporter.quantize.recipes import FORMAT_NAMES, Recipe
from edgewise.firmware_profiles import ProfileError, RecipeChoice, available_profiles, load_profile
from edgewise.firmware_profiles.recipe import FORMATS, RECIPE_NAMES, problems_with_recipe
from edgewise.firmware_profiles.vocabulary import MULTIPLIED_ROLES


def test_formats_and_names_are_the_exporters() -> None:
    assert set(FORMATS) == set(FORMAT_NAMES)
    for name in RECIPE_NAMES:
        Recipe.named(name)


@pytest.mark.parametrize("name", available_profiles())
@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
def test_the_exporter_reads_every_profiles_recipe(name: str, runtime: str) -> None:
    choice = load_profile(name).recipe_for(runtime)
    recipe = Recipe.parse(str(choice))
    assert {role: str(recipe.format_for(role)) for role in choice.formats} == choice.formats
    assert recipe.activations == choice.activations


def test_profiles_accept_exactly_the_combinations_that_the_exporter_accepts() -> None:
    plain = ("fp32", "fp16", "int8", "keep", "int4-block32", "int4-channel")
    for attention, head, activations in itertools.product(plain, plain, ("float32", "int8")):
        text = f"fp32,attention={attention},head={head},activations={activations}"
        try:
            Recipe.parse(text)
            accepted = True
        except Exception:  # noqa: BLE001 - whatever the exporter refuses it with
            accepted = False
        if accepted:
            RecipeChoice("fp32", "fp32", attention, "fp32", head, activations)
        else:
            with pytest.raises(ProfileError):
                RecipeChoice("fp32", "fp32", attention, "fp32", head, activations)


@given(
    st.sampled_from(RECIPE_NAMES),
    *[st.sampled_from(FORMATS)] * 4,
    st.sampled_from(("float32", "int8")),
)
def test_what_is_written_is_read_back_by_the_exporter(
    name: str, embedding: str, attention: str, mlp: str, head: str, activations: str
) -> None:
    try:
        choice = RecipeChoice(name, embedding, attention, mlp, head, activations)
    except ProfileError:
        return
    recipe = Recipe.parse(str(choice))
    assert {role: str(recipe.format_for(role)) for role in choice.formats} == choice.formats
    assert recipe.activations == activations


@pytest.mark.parametrize("text", [form for form in FORMATS if "-block" in form or form == "keep"])
def test_blocks_need_an_integer_dot_product_for_int8_activations_on_onnx(text: str) -> None:
    recipe = RecipeChoice.uniform(text, activations="int8")
    for features in ({"neon"}, {"neon", "sve"}, set()):
        problems = problems_with_recipe(
            recipe, runtime="onnx", userland="aarch64", features=features
        )
        assert len(problems) == 1
        assert "silently" in problems[0]
        assert all(role in problems[0] for role in MULTIPLIED_ROLES)
    for feature in ("dotprod", "i8mm", "avx2", "avx512_vnni"):
        assert not problems_with_recipe(
            recipe, runtime="onnx", userland="aarch64", features={feature}
        )


def test_an_embedding_in_blocks_needs_no_dot_product() -> None:
    recipe = RecipeChoice("int8", "int8-block32", "int8", "int8", "int8", "int8")
    assert not problems_with_recipe(recipe, runtime="onnx", userland="aarch64", features={"neon"})


@pytest.mark.parametrize("text", ["int8", "int4-block32", "int4-block128", "int4-channel"])
def test_tflite_takes_channels_and_symmetric_4_bit_blocks(text: str) -> None:
    recipe = RecipeChoice.uniform(text, activations="int8")
    assert not problems_with_recipe(recipe, runtime="tflite", userland="aarch64", features=())


def test_four_bits_by_channel_are_for_64_bit_tflite_alone() -> None:
    recipe = RecipeChoice.uniform("int4-channel", activations="int8")
    on_onnx = problems_with_recipe(recipe, runtime="onnx", userland="x86_64", features={"avx2"})
    assert len(on_onnx) == 4
    assert "onnxruntime has no product for int4-channel; use int4-block32" in on_onnx[0]
    old = problems_with_recipe(recipe, runtime="tflite", userland="armv7l", features=())
    assert "has no int4" in old[0]


def test_tflite_takes_plain_numbers() -> None:
    for text in ("fp32", "fp16"):
        recipe = RecipeChoice.uniform(text, activations="float32")
        assert not problems_with_recipe(recipe, runtime="tflite", userland="armv7l", features=())


def test_tflite_quantizes_activations_itself() -> None:
    recipe = RecipeChoice.uniform("int4-block32", activations="float32")
    (problem,) = problems_with_recipe(recipe, runtime="tflite", userland="aarch64", features=())
    assert "activations 'float32'" in problem


def test_an_unknown_runtime_is_a_problem() -> None:
    recipe = RecipeChoice.uniform("int8", activations="int8")
    (problem,) = problems_with_recipe(recipe, runtime="onx", userland="aarch64", features=())
    assert "did you mean 'onnx'?" in problem

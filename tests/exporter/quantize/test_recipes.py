import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.quantize.errors import RecipeError
from edgewise.exporter.quantize.recipes import (
    FORMAT_NAMES,
    RECIPE_NAMES,
    ROLES,
    Recipe,
    WeightFormat,
)

formats = st.sampled_from(FORMAT_NAMES)


def test_every_format_by_text():
    assert len(FORMAT_NAMES) == len(set(FORMAT_NAMES)) == 17
    for text in FORMAT_NAMES:
        assert str(WeightFormat.parse(text)) == text
    assert WeightFormat.parse("fp32") == WeightFormat("float32")
    assert WeightFormat.parse("fp16") == WeightFormat("float16")
    assert WeightFormat.parse("keep") == WeightFormat("keep")
    assert WeightFormat.parse("int8") == WeightFormat("channel", 8)
    assert WeightFormat.parse("int4-channel") == WeightFormat("channel", 4)
    assert WeightFormat.parse("int8-block64") == WeightFormat("block", 8, 64)
    assert WeightFormat.parse("int4-block128-asymmetric") == WeightFormat(
        "block", 4, 128, symmetric=False
    )


@given(
    base=st.one_of(st.sampled_from(list(RECIPE_NAMES)), formats),
    changes=st.dictionaries(st.sampled_from(ROLES), formats),
    activations=st.sampled_from([None, "float32", "int8"]),
)
def test_a_recipe_and_its_text_are_the_same(base, changes, activations):
    text = ",".join([base, *(f"{role}={form}" for role, form in changes.items())])
    if activations is not None:
        text += f",activations={activations}"
    # What `activations` can choose: the linear roles that are blocks; "int8" also for channels.
    multiplied = {changes.get(role, RECIPE_NAMES.get(base, base)) for role in ROLES[1:]}
    blocks = any("block" in form or form == "keep" for form in multiplied)
    channels = bool({"int8", "int4-channel"} & set(multiplied))
    contradicts = {
        None: False,
        "int8": not blocks and not channels,
        "float32": channels and not blocks,
    }
    if contradicts[activations]:
        with pytest.raises(RecipeError, match=f"activations={activations} contradicts"):
            Recipe.parse(text)
        return
    recipe = Recipe.parse(text)
    assert Recipe.parse(str(recipe)) == recipe
    assert str(Recipe.parse(str(recipe))) == str(recipe)
    for role in ROLES:
        expected = changes.get(role, RECIPE_NAMES.get(base, base))
        assert str(recipe.format_for(role)) == expected
    # The shortest text: nothing that can be left out is written.
    for part in str(recipe).split(",")[1:]:
        shorter = str(recipe).replace(f",{part}", "")
        with contextlib.suppress(RecipeError):
            assert Recipe.parse(shorter) != recipe


@given(st.text(max_size=30))
def test_any_other_text_is_the_users_mistake(text):
    for parse in (Recipe.parse, WeightFormat.parse):
        with contextlib.suppress(EdgewiseError):
            parse(text)


def test_named_recipes():
    assert Recipe.named("int4") == Recipe(
        "int4",
        *[WeightFormat("block", 4, 32)] * 4,
        activations="int8",
    )
    assert {name: Recipe.named(name).activations for name in RECIPE_NAMES} == {
        "fp32": "float32",
        "fp16": "float32",
        "int8": "int8",
        "int4": "int8",
        "keep": "float32",
    }
    for name in RECIPE_NAMES:
        assert str(Recipe.named(name)) == name
    with pytest.raises(RecipeError, match=r'"int5"\. Did you mean int8 or int4\?'):
        Recipe.named("int5")
    with pytest.raises(RecipeError, match="Named recipes are fp32"):
        Recipe.named("int4-block32")


@pytest.mark.parametrize(
    ("text", "activations"),
    [
        ("int4,mlp=int8-block32,head=int8,activations=float32", "float32"),
        ("keep,head=int8-block32", "float32"),
        ("keep,activations=int8", "int8"),
        ("fp32,mlp=int4-block32", "int8"),
        ("fp32,embedding=int8", "float32"),
        ("int8,attention=fp32,mlp=fp32,head=fp16", "float32"),
        (" int4 , head = int8 ", "int8"),
    ],
)
def test_activations(text, activations):
    assert Recipe.parse(text).activations == activations


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'Unknown recipe ""'),
        ("int5", r'"int5"\. Did you mean int8 or int4\?'),
        ("int4x", r"Did you mean int4"),
        ("int4,", 'cannot read ""'),
        ("int4,mpl=fp32", r"Did you mean mlp\?"),
        ("int4,fp32", 'cannot read "fp32"'),
        ("int4,mlp=int8-blok32", "Did you mean int8-block32"),
        ("int4,mlp=int4", "Accepted are fp32"),
        ("int4,mlp=int4-block48", "int4-block32"),
        ("int4,mlp=fp32,mlp=fp16", "mlp is given twice"),
        ("int4,activations=int16", r'"int16"\. Did you mean int8'),
        ("fp16,activations=int8", "none of which is quantized"),
        ("int8,activations=float32", "int8-block32 weights"),
        ("int8,head=fp32,activations=float32", "contradicts"),
        ("int8,mlp=int4-channel,activations=float32", "contradicts the formats int8 and int4-"),
        ("fp32,embedding=int8,activations=int8", "none of which is quantized"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.parse(text)


def test_roles():
    recipe = Recipe.parse("int4,head=fp16")
    assert recipe.format_for("head") == WeightFormat("float16")
    assert recipe.format_for("mlp") == WeightFormat("block", 4, 32)
    with pytest.raises(RecipeError, match=r'"heads"\. Did you mean head'):
        recipe.format_for("heads")


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "block"},
        {"kind": "block", "bits": 3, "block_size": 32},
        {"kind": "block", "bits": 4, "block_size": 48},
        {"kind": "float32", "bits": 32},
        {"kind": "float16", "block_size": 32},
        {"kind": "channel"},
        {"kind": "channel", "bits": 8, "symmetric": False},
        {"kind": "keep", "bits": 4},
        {"kind": "bfloat16"},
    ],
)
def test_formats_that_contradict_themselves_are_refused(arguments):
    with pytest.raises(RecipeError):
        WeightFormat(**arguments)


def test_bytes_a_weight():
    figures = {
        "fp32": 4,
        "fp16": 2,
        "int8": 1,
        "int4-block32": 0.5 + 4 / 32,
        "int4-block128-asymmetric": 0.5 + 4.5 / 128,
        "int8-block64-asymmetric": 1 + 5 / 64,
    }
    for text, expected in figures.items():
        assert WeightFormat.parse(text).bytes_per_weight == expected
    with pytest.raises(RecipeError, match="depends on the types"):
        _ = WeightFormat.parse("keep").bytes_per_weight

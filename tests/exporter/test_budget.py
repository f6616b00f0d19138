"""What fits is let through; what does not is refused with a sum and with ways out that work."""

import dataclasses
import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.budget import (
    CONTEXT_STEP,
    BudgetError,
    MemoryBudget,
    check_fit,
    memory_budget,
    model_size,
    refuse_unless_fits,
    smaller_recipes,
)
from edgewise.exporter.model_size import EncoderWork, ModelSize, weights_bytes
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.firmware_profiles import Profile, load_profile

MEBIBYTE = 1 << 20
ROLES = ("embedding", "attention", "mlp", "head")


def decoder(layers: int, hidden: int, mlp: int, vocabulary: int, key_value_heads: int) -> ModelSize:
    return ModelSize(
        shapes={
            "embedding": [(vocabulary, hidden)],
            "attention": layers * [(hidden, hidden), (hidden, hidden)],
            "mlp": layers * [(mlp, hidden), (mlp, hidden), (hidden, mlp)],
            "head": [(vocabulary, hidden)],
            "norm": [(hidden,)],
        },
        tied_head=False,
        layers=layers,
        key_value_heads=key_value_heads,
        head_size=64,
    )


BILLION = decoder(22, 2048, 5632, 32000, 4)  # about a TinyLlama: 1.1 billion parameters
SEVEN_BILLION = decoder(32, 4096, 11008, 32000, 32)


def formats_of(text: str) -> dict[str, str]:
    recipe = Recipe.parse(text)
    return {role: str(recipe.format_for(role)) for role in ROLES}  # type: ignore[arg-type]


def refusal(profile: Profile, model: ModelSize, recipe: str, context: int) -> BudgetError:
    with pytest.raises(BudgetError) as caught:
        refuse_unless_fits("model", profile, model, formats_of(recipe), context=context)
    assert isinstance(caught.value, EdgewiseError)
    return caught.value


def recipe_in(message: str) -> str:
    found = re.search(r"[Rr]ecipe (\S+) fits", message)
    assert found is not None, message
    return found[1]


def test_the_sum() -> None:
    budget = MemoryBudget(
        weights_bytes=100 * MEBIBYTE,
        cache_bytes_per_token=MEBIBYTE,
        context=50,
        overhead_bytes=30 * MEBIBYTE,
        usable_bytes=180 * MEBIBYTE,
    )
    assert budget.cache_bytes == 50 * MEBIBYTE
    assert budget.total_bytes == 180 * MEBIBYTE
    assert budget.fits
    assert not dataclasses.replace(budget, context=51).fits
    assert str(budget) == (
        "weights 100 MiB + cache of 50 tokens 50 MiB + runtime 30 MiB = 180 MiB, of 180 MiB usable"
    )


@given(
    st.integers(0, 1 << 34),
    st.integers(1, 1 << 20),
    st.integers(0, 1 << 30),
    st.integers(0, 1 << 35),
)
def test_the_largest_context_fits_and_a_step_more_does_not(
    weights: int, per_token: int, overhead: int, usable: int
) -> None:
    budget = MemoryBudget(weights, per_token, 0, overhead, usable)
    largest = budget.largest_context
    assert largest % CONTEXT_STEP == 0
    if largest:
        assert dataclasses.replace(budget, context=largest).fits
    assert not dataclasses.replace(budget, context=largest + CONTEXT_STEP).fits


def test_a_budget_is_made_of_the_profiles_numbers() -> None:
    profile = load_profile("raspberry_pi_5:4gb")
    formats = profile.recipe.formats
    budget = memory_budget(profile, BILLION, formats, context=2048)
    assert budget == MemoryBudget(
        weights_bytes=weights_bytes(BILLION, formats, "onnx"),
        cache_bytes_per_token=2 * 22 * 4 * 64 * 4,
        context=2048,
        overhead_bytes=128 * MEBIBYTE,
        usable_bytes=3328 * MEBIBYTE,
    )
    returned = refuse_unless_fits("model", profile, BILLION, formats, context=2048)
    assert returned == budget


def test_the_runtime_in_force_decides_overhead_and_weights() -> None:
    profile = load_profile("jetson_orin_nano")
    formats = formats_of("int8")
    onnx = memory_budget(profile, BILLION, formats, context=1)
    tflite = memory_budget(profile.for_runtime("tflite"), BILLION, formats, context=1)
    assert (onnx.overhead_bytes, tflite.overhead_bytes) == (512 * MEBIBYTE, 128 * MEBIBYTE)


def test_the_refusal_states_the_sum_and_a_context_that_fits() -> None:
    profile = load_profile("raspberry_pi_5:2gb")
    error = refusal(profile, BILLION, "int4", 32768)
    assert str(error).startswith(
        "model does not fit raspberry_pi_5:2gb: weights 642 MiB + cache of 32768 tokens 1408 MiB + "
        "runtime 128 MiB = 2178 MiB, of 1536 MiB usable. "
    )
    found = re.search(r"[Aa] context of (\d+) tokens fits with this recipe", str(error))
    assert found is not None
    context = int(found[1])
    assert memory_budget(profile, BILLION, formats_of("int4"), context=context).fits
    more = context + CONTEXT_STEP
    assert not memory_budget(profile, BILLION, formats_of("int4"), context=more).fits
    assert error.budget.total_bytes > error.budget.usable_bytes


def test_the_nearest_recipe_is_the_largest_that_fits() -> None:
    profile = load_profile("raspberry_pi_5:2gb")
    message = str(refusal(profile, BILLION, "fp32", 2048))
    named = recipe_in(message)
    assert memory_budget(profile, BILLION, formats_of(named), context=2048).fits
    size = weights_bytes(BILLION, formats_of(named), "onnx")
    for recipe, other in smaller_recipes(profile, BILLION, 1 << 60):
        if memory_budget(profile, BILLION, recipe.formats, context=2048).fits:
            assert other <= size


def test_a_larger_variant_is_named_where_it_has_room() -> None:
    message = str(refusal(load_profile("raspberry_pi_5:2gb"), BILLION, "fp32", 2048))
    assert "rofile raspberry_pi_5 has room for it" in message
    message = str(refusal(load_profile("raspberry_pi_5"), SEVEN_BILLION, "int8", 4096))
    assert "rofile raspberry_pi_5:16gb has room for it" in message
    message = str(refusal(load_profile("raspberry_pi_zero_2w"), BILLION, "int8", 512))
    assert "has room for it" not in message


def test_recipes_that_the_board_can_not_run_are_not_named() -> None:
    profile = load_profile("raspberry_pi_4:1gb").for_runtime("onnx")
    # Blocks with int8 activations would be computed in fp32 there, so no 4-bit recipe is a way out.
    message = str(refusal(profile, BILLION, "int8", 64))
    assert "int4" not in message
    assert "rofile raspberry_pi_4:2gb has room for it" in message
    names = {str(recipe) for recipe, _ in smaller_recipes(profile, BILLION, 1 << 60)}
    assert names == {"fp32", "int8"}


def test_when_neither_suffices_alone_recipe_and_context_are_changed_together() -> None:
    profile = load_profile("raspberry_pi_5:2gb")
    message = str(refusal(profile, BILLION, "int8-block32", 131072))
    # The weights of the given recipe alone leave some context here; without any, both change.
    assert re.search(r"[Aa] context of \d+ tokens fits with this recipe", message)
    message = str(refusal(profile, BILLION, "fp32", 131072))
    found = re.search(r"[Rr]ecipe (\S+) fits with a context of (\d+) tokens", message)
    assert found is not None
    assert memory_budget(profile, BILLION, formats_of(found[1]), context=int(found[2])).fits


def test_when_nothing_helps_it_says_so() -> None:
    message = str(refusal(load_profile("raspberry_pi_zero_2w"), SEVEN_BILLION, "int8", 512))
    assert message.endswith(
        "No recipe makes it fit: choose a smaller model or a board with more memory."
    )


ENCODER = ModelSize(
    shapes={"embedding": [(50265, 768)], "attention": [(768, 768)], "head": [(50265, 768)]},
    tied_head=False,
    layers=0,
    key_value_heads=0,
    head_size=0,
    encoder=EncoderWork(hidden_size=768, intermediate_size=3072, heads=12, result_size=50265),
)


def test_an_encoder_has_work_in_place_of_a_cache() -> None:
    budget = memory_budget(load_profile("x86_64"), ENCODER, formats_of("int8"), context=512)
    assert budget.cache_bytes == 0
    of_a_token = 8 * 768 + 3 * 3072 + 4 * 50265 + 3 * 12 * 512
    assert budget.working_bytes == 4 * 512 * of_a_token
    assert re.fullmatch(
        r"weights \d+ MiB \+ work on 512 tokens 459 MiB \+ runtime \d+ MiB = .* usable", str(budget)
    )


def test_a_shorter_text_is_an_encoders_way_out() -> None:
    profile = load_profile("raspberry_pi_zero_2w")
    message = str(refusal(profile, ENCODER, "int8", 512))
    found = re.search(r"[Aa] context of (\d+) tokens fits with this recipe", message)
    assert found is not None
    context = int(found[1])
    formats = formats_of("int8")
    assert memory_budget(profile, ENCODER, formats, context=context).fits
    assert not memory_budget(profile, ENCODER, formats, context=context + CONTEXT_STEP).fits


def test_a_source_is_kept_beside_the_cache_of_the_answer() -> None:
    alone = decoder(6, 512, 2048, 32128, 8)
    work = EncoderWork(hidden_size=512, intermediate_size=2048, heads=8, result_size=0)
    both = dataclasses.replace(alone, encoder=work, keeps_source=True)
    profile, formats = load_profile("x86_64"), formats_of("fp32")
    with_source = memory_budget(profile, both, formats, context=256)
    without = memory_budget(profile, alone, formats, context=256)
    kept = with_source.cache_bytes  # as many heads and layers, the same number of tokens
    assert with_source.total_bytes - without.total_bytes == kept + work.activation_bytes(256)
    assert str(with_source).startswith("weights 210 MiB + cache of 256 tokens 6 MiB + work on 256")


def test_blocks_that_do_not_divide_the_rows_are_not_named() -> None:
    model = decoder(2, 96, 160, 1000, 1)  # 96 and 160 are multiples of 32 only
    names = [str(recipe) for recipe, _ in smaller_recipes(load_profile("x86_64"), model, 1 << 60)]
    assert any("block32" in name for name in names)
    assert not any("block64" in name or "block128" in name for name in names)


@pytest.mark.parametrize("board", ["raspberry_pi_zero_2w", "raspberry_pi_3", "raspberry_pi_5"])
@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
def test_smollm2_fits_every_board_at_its_full_context(board: str, runtime: str) -> None:
    layers, hidden, mlp, vocabulary = 30, 576, 1536, 49152
    model = ModelSize(
        shapes={
            "embedding": [(vocabulary, hidden)],
            "attention": layers
            * [(hidden, hidden), (192, hidden), (192, hidden), (hidden, hidden)],
            "mlp": layers * [(mlp, hidden), (mlp, hidden), (hidden, mlp)],
            "norm": (2 * layers + 1) * [(hidden,)],
        },
        tied_head=True,
        layers=layers,
        key_value_heads=3,
        head_size=64,
    )
    profile = load_profile(board).for_runtime(runtime)
    formats = profile.recipe.formats
    context = min(profile.max_context, 8192)
    assert refuse_unless_fits("SmolLM2", profile, model, formats, context=context).fits


@dataclass(frozen=True)
class Tensor:
    stored_shape: tuple[int, ...]
    role: str


@dataclass(frozen=True)
class Cache:
    layers: int = 2
    key_value_heads: int = 3
    head_size: int = 64
    copies: int = 1
    dtype: str = "float16"


@dataclass(frozen=True)
class Plan:
    profile: Profile
    context_length: int
    model_id: str = "tiny"
    cache: Cache | None = dataclasses.field(default_factory=Cache)
    encoder: EncoderWork | None = None
    source_length: int | None = None
    tied_head: bool = True
    activations: str = "int8"
    tensors: dict[str, Tensor] = dataclasses.field(
        default_factory=lambda: {
            "embedding": Tensor((1000, 64), "embedding"),
            "q": Tensor((64, 64), "attention"),
            "k": Tensor((64, 64), "attention"),
            "norm": Tensor((64,), "norm"),
        }
    )

    @property
    def formats(self) -> dict[str, str]:
        return self.profile.recipe.formats


def test_a_plan_is_checked_by_its_shapes() -> None:
    plan = Plan(load_profile("raspberry_pi_5"), context_length=128)
    model = model_size(plan)
    assert model == ModelSize(
        shapes={
            "embedding": [(1000, 64)],
            "attention": [(64, 64), (64, 64)],
            "norm": [(64,)],
        },
        tied_head=True,
        layers=2,
        key_value_heads=3,
        head_size=64,
        cache_dtype="float16",
    )
    assert check_fit(plan).cache_bytes_per_token == 2 * 2 * 3 * 64 * 2
    assert check_fit(plan) == memory_budget(plan.profile, model, plan.formats, context=128)
    with pytest.raises(BudgetError, match="tiny does not fit raspberry_pi_5"):
        check_fit(dataclasses.replace(plan, context_length=10_000_000))

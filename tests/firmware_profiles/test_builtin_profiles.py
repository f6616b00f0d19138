"""The boards that ship: each loads, is named after its file, and follows what its CPU can do."""

import itertools
import json

import pytest

from edgewise.firmware_profiles import ProfileError, available_profiles, load_profile
from edgewise.firmware_profiles.profile import SLOTS_MAX
from edgewise.firmware_profiles.vocabulary import INTEGER_DOT_FEATURES, MULTIPLIED_ROLES
from edgewise.runtime import loading

BOARDS = available_profiles()
WITHOUT_DOTPROD = {"raspberry_pi_zero_2w", "raspberry_pi_3", "raspberry_pi_4", "jetson_nano"}


def test_the_boards_that_ship() -> None:
    assert BOARDS == (
        "android_arm64",
        "android_pixel_9",
        "jetson_agx_orin",
        "jetson_nano",
        "jetson_orin_nano",
        "raspberry_pi_3",
        "raspberry_pi_4",
        "raspberry_pi_5",
        "raspberry_pi_zero_2w",
        "x86_64",
    )


@pytest.mark.parametrize("name", BOARDS)
def test_a_profile_is_named_after_its_file_and_prints_as_json(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == profile.qualified_name == name
    printed = json.loads(json.dumps(profile.as_dict()))
    assert printed["memory"]["usable_bytes"] == profile.memory.usable_bytes
    assert printed["cpu"]["features"] == sorted(profile.cpu.features)
    assert printed["runtimes"][profile.runtime]["recipe"]["mlp"] == profile.recipe.mlp


@pytest.mark.parametrize("name", BOARDS)
def test_both_runtimes_are_declared_so_that_either_can_be_asked_for(name: str) -> None:
    profile = load_profile(name)
    for runtime in ("onnx", "tflite"):
        other = profile.for_runtime(runtime)
        assert other.runtime == runtime
        assert other.recipe == profile.recipe_for(runtime)
        assert other.execution_providers == profile.runtime_choice(runtime).execution_providers
        assert other.problems_with(other.recipe, runtime) == ()


def test_small_boards_have_fewer_slots_and_none_more_than_can_be_loaded() -> None:
    slots = {name: load_profile(name).slots for name in BOARDS}
    assert slots["raspberry_pi_zero_2w"] == 1
    assert slots["raspberry_pi_3"] == slots["raspberry_pi_4"] == 2
    assert slots["raspberry_pi_5"] == slots["x86_64"] == 4
    assert loading.SLOTS_MAX == SLOTS_MAX


def test_runtimes_by_board() -> None:
    runtimes = {name: load_profile(name).runtime for name in BOARDS}
    assert {name for name, runtime in runtimes.items() if runtime == "onnx"} == {
        "raspberry_pi_5",
        "jetson_orin_nano",
        "jetson_agx_orin",
        "x86_64",
    }


def test_boards_without_dotprod_have_int8_per_channel_on_onnx() -> None:
    without = {
        name for name in BOARDS if not load_profile(name).cpu.features & INTEGER_DOT_FEATURES
    }
    assert without == WITHOUT_DOTPROD
    for name in without:
        recipe = load_profile(name).recipe_for("onnx")
        assert {recipe.formats[role] for role in MULTIPLIED_ROLES} == {"int8"}


def test_raspberry_pi_5_quantizes_to_4_bits_where_the_bytes_are() -> None:
    profile = load_profile("raspberry_pi_5")
    assert str(profile.recipe) == "int4,embedding=int8-block32,head=int8-block32"
    assert profile.recipe.activations == "int8"


def test_the_small_raspberry_pis_run_32_bit_tflite() -> None:
    for name in ("raspberry_pi_zero_2w", "raspberry_pi_3"):
        profile = load_profile(name)
        assert profile.runtime_choice("tflite").userland == "armv7l"
        assert profile.python == ("3.11",)
        assert profile.for_runtime("onnx").runtime_choice("onnx").userland == "aarch64"


def test_names_of_boards_are_not_ambiguous() -> None:
    names = [
        (model, profile) for profile in map(load_profile, BOARDS) for model in profile.board_models
    ]
    for (one, first), (other, second) in itertools.permutations(names, 2):
        assert not one.startswith(other) or first is second


def test_ram_variants() -> None:
    sizes = {
        variant: load_profile(f"raspberry_pi_5:{variant}").memory.ram_bytes >> 30
        for variant in ("2gb", "4gb", "8gb", "16gb")
    }
    assert sizes == {"2gb": 2, "4gb": 4, "8gb": 8, "16gb": 16}
    large = load_profile("raspberry_pi_5:16gb")
    assert large.qualified_name == "raspberry_pi_5:16gb"
    assert large.memory.usable_bytes > load_profile("raspberry_pi_5").memory.usable_bytes
    assert load_profile("raspberry_pi_5:8gb") == load_profile("raspberry_pi_5")
    assert load_profile(large.qualified_name) == large


def test_unknown_names_and_variants_name_the_nearest_and_all() -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile("rasberry_pi5")
    message = str(caught.value)
    assert "did you mean 'raspberry_pi_5'?" in message
    assert all(name in message for name in BOARDS)
    with pytest.raises(ProfileError, match=r"RAM variant '32gb' is unknown.*2gb, 4gb, 8gb, 16gb"):
        load_profile("raspberry_pi_5:32gb")
    with pytest.raises(ProfileError, match=r"RAM variant '' is unknown"):
        load_profile("raspberry_pi_5:")
    with pytest.raises(ProfileError, match=r"profile '' is unknown"):
        load_profile("")


def test_a_runtime_that_is_not_declared_is_refused() -> None:
    profile = load_profile("x86_64")
    for call in (profile.recipe_for, profile.for_runtime, profile.runtime_choice):
        with pytest.raises(ProfileError, match=r"runtime 'onnxx' is unknown \(did you mean 'onnx'"):
            call("onnxx")


def test_decode_limit_is_bandwidth_over_bytes_read() -> None:
    profile = load_profile("raspberry_pi_5")
    assert profile.decode_limit_tokens_per_second(84e6) == 17_068_000_000 / 84e6
    assert profile.decode_limit_tokens_per_second(17_068_000_000) == 1.0
    with pytest.raises(ValueError, match="positive"):
        profile.decode_limit_tokens_per_second(0)

import math

import pytest

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.options import (
    GenerationOptions,
    OptionsError,
    SamplingDefaults,
    SamplingSettings,
)

ACCEPTED = [
    {},
    {"max_tokens": 1, "temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0},
    {"temperature": 100.0, "top_p": 1e-9, "min_p": 1.0, "repetition_penalty": 0.5},
    {"seed": 0},
    {"seed": 2**64 - 1, "stop": ("a", "b" * 1024), "raw": True},
    {"typical_p": 1e-9, "frequency_penalty": -2.0, "presence_penalty": 2},
    {"logit_bias": {0: -100, 2**31 - 1: 100.0}},
    {"logit_bias": dict.fromkeys(range(1024), 0.5)},
    {"logprobs": 0},
    {"logprobs": 20},
    {"dry_multiplier": 0.8, "dry_base": 1, "dry_allowed_length": 1, "dry_breakers": ()},
    {"beams": 64, "length_penalty": -10.0, "repetition_penalty": 1.2, "seed": 1},
    {"beams": 2, "temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0, "length_penalty": 0},
    {"beams": 6, "beam_groups": 3, "diversity_penalty": 0.5},
    {"beams": 4, "beam_groups": 4, "diversity_penalty": 100.0},
]
REFUSED = [
    ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 1.0), ("max_tokens", True),
    ("max_tokens", None), ("max_tokens", 2**31), ("max_tokens", "5"),
    ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf),
    ("temperature", 10**400), ("temperature", "hot"), ("temperature", True),
    ("top_k", -1), ("top_k", 2.5), ("top_p", 0.0), ("top_p", 1.01), ("top_p", math.nan),
    ("min_p", -0.01), ("min_p", 1.1), ("min_p", math.nan),
    ("repetition_penalty", 0), ("repetition_penalty", -1.0), ("repetition_penalty", math.inf),
    ("typical_p", 0.0), ("typical_p", 1.01), ("typical_p", math.nan), ("typical_p", None),
    ("frequency_penalty", -2.1), ("frequency_penalty", math.nan), ("frequency_penalty", None),
    ("presence_penalty", 2.1), ("presence_penalty", -math.inf), ("presence_penalty", "1"),
    ("logit_bias", None), ("logit_bias", [1, 2]), ("logit_bias", {1: math.nan}),
    ("logit_bias", {1: 100.5}), ("logit_bias", {-1: 1.0}), ("logit_bias", {"1": 1.0}),
    ("logit_bias", {1.0: 1.0}), ("logit_bias", {True: 1.0}), ("logit_bias", {2**31: 1.0}),
    ("logit_bias", {1: None}), ("logit_bias", dict.fromkeys(range(1025), 0.5)),
    ("dry_multiplier", -0.1), ("dry_multiplier", math.inf), ("dry_multiplier", None),
    ("dry_base", 0.99), ("dry_base", math.nan), ("dry_base", 101), ("dry_allowed_length", 0),
    ("dry_allowed_length", 2.0), ("dry_allowed_length", None), ("dry_breakers", "END"),
    ("dry_breakers", ("",)), ("dry_breakers", ("x" * 65,)), ("dry_breakers", ("x",) * 33),
    ("logprobs", -1), ("logprobs", 21), ("logprobs", True), ("logprobs", 1.0),
    ("seed", -1), ("seed", 2**64), ("seed", 1.5),
    ("stop", "END"), ("stop", ("",)), ("stop", (1,)), ("stop", ("x" * 1025,)),
    ("stop", ("x",) * 33), ("stop", None), ("raw", 1), ("raw", None),
    ("beams", 0), ("beams", 65), ("beams", None), ("beams", 2.0), ("beam_groups", 0),
    ("beam_groups", None), ("beam_groups", 2), ("diversity_penalty", -1.0),
    ("diversity_penalty", math.nan), ("diversity_penalty", None), ("diversity_penalty", 1.0),
    ("length_penalty", None), ("length_penalty", 11.0), ("length_penalty", 2.0),
]  # fmt: skip


@pytest.mark.parametrize("fields", ACCEPTED)
def test_accepted(fields):
    GenerationOptions(**fields)


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_refused_with_name_and_accepted_range(name, value):
    with pytest.raises(OptionsError) as caught:
        GenerationOptions(**{name: value})
    assert str(caught.value).startswith(f"{name} ")
    assert "accepted: " in str(caught.value)
    assert isinstance(caught.value, EdgewiseError)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_p": 0.9},
        {"min_p": 0.1},
        {"typical_p": 0.9},
        {"frequency_penalty": -1.0},
        {"presence_penalty": 1.0},
        {"logit_bias": {1: 1.0}},
        {"dry_multiplier": 0.8},
        {"logprobs": 0},
        {"beam_groups": 2},
        {"beam_groups": 3, "diversity_penalty": 1.0},
        {"diversity_penalty": 1.0},
    ],
)
def test_what_contradicts_beams_is_refused(fields):
    with pytest.raises(OptionsError, match="accepted: ") as caught:
        GenerationOptions(beams=4, **fields)
    assert any(str(caught.value).startswith(f"{name} ") for name in (*fields, "diversity_penalty"))


def test_a_list_of_stops_becomes_a_tuple():
    assert GenerationOptions(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]


def test_a_bias_is_the_options_own():
    bias = {1: 2.0}
    options = GenerationOptions(logit_bias=bias)
    bias[2] = 3.0
    assert options.logit_bias == {1: 2.0}
    assert hash(options) == hash(GenerationOptions(logit_bias={1: 2.0}))


def test_several_answers_have_seeds_of_their_own():
    options = GenerationOptions(seed=2**64 - 2, top_k=7)
    assert options.numbered(0) == options
    assert [options.numbered(index).seed for index in range(3)] == [2**64 - 2, 2**64 - 1, 0]
    assert options.numbered(1).top_k == 7
    assert GenerationOptions().numbered(5).seed is None


def test_what_no_bundle_advises_is_settled_by_the_caller_alone():
    values = {
        "typical_p": 0.9,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {7: 1.5},
        "dry_multiplier": 0.8,
        "dry_base": 1.5,
        "dry_allowed_length": 3,
        "dry_breakers": ("\n",),
    }
    settled = GenerationOptions(**values).sampling(SamplingDefaults())
    assert {name: getattr(settled, name) for name in values} == values


def test_settings_come_from_the_caller_then_the_bundle_then_neutral():
    defaults = SamplingDefaults(temperature=0.7, top_k=40, repetition_penalty=1.1)
    assert GenerationOptions().sampling(SamplingDefaults()) == SamplingSettings(0, 0, 1, 0, 1, None)
    assert GenerationOptions(temperature=0, top_k=0, top_p=0.9, seed=3).sampling(
        defaults
    ) == SamplingSettings(0, 0, 0.9, 0.0, 1.1, 3)
    assert GenerationOptions().sampling(defaults) == SamplingSettings(0.7, 40, 1.0, 0.0, 1.1, None)

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
]
REFUSED = [
    ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 1.0), ("max_tokens", True),
    ("max_tokens", None), ("max_tokens", 2**31), ("max_tokens", "5"),
    ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf),
    ("temperature", 10**400), ("temperature", "hot"), ("temperature", True),
    ("top_k", -1), ("top_k", 2.5), ("top_p", 0.0), ("top_p", 1.01), ("top_p", math.nan),
    ("min_p", -0.01), ("min_p", 1.1), ("min_p", math.nan),
    ("repetition_penalty", 0), ("repetition_penalty", -1.0), ("repetition_penalty", math.inf),
    ("seed", -1), ("seed", 2**64), ("seed", 1.5),
    ("stop", "END"), ("stop", ("",)), ("stop", (1,)), ("stop", ("x" * 1025,)),
    ("stop", ("x",) * 33), ("stop", None), ("raw", 1), ("raw", None),
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


def test_a_list_of_stops_becomes_a_tuple():
    assert GenerationOptions(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]


def test_settings_come_from_the_caller_then_the_bundle_then_neutral():
    defaults = SamplingDefaults(temperature=0.7, top_k=40, repetition_penalty=1.1)
    assert GenerationOptions().sampling(SamplingDefaults()) == SamplingSettings(0, 0, 1, 0, 1, None)
    assert GenerationOptions(temperature=0, top_k=0, top_p=0.9, seed=3).sampling(
        defaults
    ) == SamplingSettings(0, 0, 0.9, 0.0, 1.1, 3)
    assert GenerationOptions().sampling(defaults) == SamplingSettings(0.7, 40, 1.0, 0.0, 1.1, None)

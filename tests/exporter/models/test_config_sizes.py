"""Sizes in a config.json that no model has."""

import json
import re

import pytest
from tiny_checkpoint import load_case, write_checkpoint

from edgewise.exporter import export
from edgewise.exporter.forecast import forecast
from edgewise.exporter.models.config_sizes import LAYERS_MAX, check_sizes
from edgewise.exporter.models.decoder import ConfigurationError
from edgewise.firmware_profiles import load_profile

CONFIG = load_case("llama_llama3_scaling").config


def test_sizes_of_real_models_and_absent_ones_are_let_through():
    check_sizes(CONFIG)
    check_sizes(CONFIG | {"num_key_value_heads": None, "num_hidden_layers": LAYERS_MAX})
    check_sizes({"model_type": "llava", "text_config": CONFIG, "vision_config": None})


@pytest.mark.parametrize("value", ["four", 0, -1, 2.5, True, [4], 10**9, float("nan")])
def test_a_size_that_no_model_has_is_refused(value):
    accepted = re.escape(f"num_hidden_layers is {value!r}, accepted: a whole number from 1 to 1024")
    with pytest.raises(ConfigurationError, match=accepted):
        check_sizes(CONFIG | {"num_hidden_layers": value})


@pytest.mark.parametrize("value", ["x", 0, -1e-5, float("inf"), False])
def test_a_constant_that_no_model_has_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"rms_norm_eps is .*, accepted: a number over 0"):
        check_sizes(CONFIG | {"rms_norm_eps": value})


def test_all_are_named_at_once_with_those_of_the_parts():
    with pytest.raises(ConfigurationError) as caught:
        check_sizes({"model_type": "llava", "vocab_size": 0, "text_config": {"hidden_size": "x"}})
    assert "vocab_size is 0" in str(caught.value)
    assert "text_config.hidden_size is 'x'" in str(caught.value)


def test_an_export_and_a_plan_refuse_them_before_they_count(tmp_path):
    folder = write_checkpoint(load_case("llama_llama3_scaling"), tmp_path / "checkpoint")
    changed = CONFIG | {"num_hidden_layers": 10**9}
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ConfigurationError, match="num_hidden_layers is 1000000000"):
        export(str(folder), profile="raspberry_pi_5", output=tmp_path / "bundle")
    with pytest.raises(ConfigurationError, match="num_hidden_layers is 1000000000"):
        forecast(changed, load_profile("raspberry_pi_5"))

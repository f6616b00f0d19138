"""What definitions declare: counts from published configurations, refusals, rotary frequencies."""

import math

import pytest

from edgewise.exporter.models import UnknownModelError, find_model, model_types
from edgewise.exporter.models.decoder import ConfigurationError
from edgewise.exporter.models.rotary import RotaryError, rotary_from_configuration

TINYLLAMA = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
LITELLAMA = TINYLLAMA | {
    "vocab_size": 50304,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
}
ORCA_2_7B = TINYLLAMA | {
    "vocab_size": 32003,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
}
ORCA_2_13B = ORCA_2_7B | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}


def parameters(config):
    definition = find_model(config["model_type"])
    tensors = definition.tensors(definition.configuration(config))
    return sum(tensor.parameters for tensor in tensors.values())


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (TINYLLAMA, 1_100_048_384),
        (LITELLAMA, 461_685_760),
        (ORCA_2_7B, 6_738_440_192),
        (ORCA_2_13B, 13_015_895_040),
    ],
)
def test_parameter_counts_of_published_configurations(config, count):
    assert parameters(config) == count


def test_a_tied_head_is_counted_once():
    tied = TINYLLAMA | {"tie_word_embeddings": True}
    assert parameters(TINYLLAMA) - parameters(tied) == 32000 * 2048


def test_qwen2_has_biases_on_query_key_and_value_alone():
    config = TINYLLAMA | {"model_type": "qwen2"}
    assert parameters(config) - parameters(TINYLLAMA) == 22 * (2048 + 2 * 4 * 64)


def test_unknown_type_names_the_nearest():
    with pytest.raises(UnknownModelError, match=r"'lama'.*llama, .*qwen2.*Did you mean 'llama'"):
        find_model("lama")


def test_helper_modules_are_no_models():
    assert {"llama", "qwen2"} <= set(model_types())
    for name in ("rotary", "decoder", "decoder_head"):
        assert name not in model_types()
        with pytest.raises(UnknownModelError):
            find_model(name)


@pytest.mark.parametrize("missing", ["hidden_size", "vocab_size", "num_hidden_layers"])
def test_a_missing_value_is_named(missing):
    config = {key: value for key, value in TINYLLAMA.items() if key != missing}
    with pytest.raises(ConfigurationError, match=missing):
        parameters(config)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ConfigurationError, match="multiple"):
        parameters(TINYLLAMA | {"num_key_value_heads": 5})


def test_another_activation_is_refused():
    with pytest.raises(ConfigurationError, match="'gelu'"):
        parameters(TINYLLAMA | {"hidden_act": "gelu"})


def test_default_frequencies_are_a_geometric_series():
    rotary = rotary_from_configuration(8, 10000.0, None)
    assert rotary.inverse_frequencies == pytest.approx((1.0, 0.1, 0.01, 0.001))


def test_linear_scaling_divides_every_frequency():
    plain = rotary_from_configuration(8, 10000.0, None).inverse_frequencies
    scaled = rotary_from_configuration(8, 10000.0, {"rope_type": "linear", "factor": 4.0})
    assert scaled.inverse_frequencies == pytest.approx([value / 4 for value in plain])


def test_llama3_scaling_keeps_short_and_stretches_long_wavelengths():
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    plain = rotary_from_configuration(128, 500000.0, None).inverse_frequencies
    scaled = rotary_from_configuration(128, 500000.0, scaling).inverse_frequencies
    for before, after in zip(plain, scaled, strict=True):
        wavelength = 2 * math.pi / before
        if wavelength < 8192 / 4:
            assert after == before
        elif wavelength > 8192:
            assert after == pytest.approx(before / 8)
        else:
            assert before / 8 < after < before


def test_unknown_scaling_is_refused():
    with pytest.raises(RotaryError, match=r"'yarn'.*default, linear, llama3, longrope"):
        rotary_from_configuration(8, 10000.0, {"rope_type": "yarn", "factor": 2.0})


def test_a_missing_factor_is_named():
    with pytest.raises(RotaryError, match="factor"):
        rotary_from_configuration(8, 10000.0, {"rope_type": "linear"})

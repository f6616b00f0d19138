"""What sets decoders apart: windows, rotary forms, refusals."""

import math

import pytest

from edgewise.exporter.models import find_model
from edgewise.exporter.models.decoder import ConfigurationError
from edgewise.exporter.models.rotary import RotaryError
from edgewise.exporter.models.windows import FULL, SLIDING, windows_of

QWEN2_5_0_5B = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "sliding_window": 32768,
    "max_window_layers": 21,
}
PHI_3_MINI = {
    "model_type": "phi3",
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "sliding_window": 2047,
}
PHI_3_MINI_128K = PHI_3_MINI | {
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "sliding_window": 262144,
    "rope_scaling": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 24 + [2.0] * 24,
        "long_factor": [4.0] * 48,
    },
}
GEMMA_3_270M = {
    "model_type": "gemma3_text",
    "vocab_size": 262144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "sliding_window": 512,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "query_pre_attn_scalar": 256,
}
GPT_2 = {
    "model_type": "gpt2",
    "vocab_size": 50257,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
}


def configured(config):
    return find_model(config["model_type"]).configuration(config)


# Windows


def test_gemmas_every_sixth_layer_sees_all():
    windows = configured(GEMMA_3_270M).windows
    assert [layer for layer, window in enumerate(windows) if window is None] == [5, 11, 17]
    assert set(windows) == {512, None}


def test_gemmas_layers_with_a_window_have_a_rotary_base_of_their_own():
    c = configured(GEMMA_3_270M)
    assert c.attention(0).rotary.inverse_frequencies[1] == pytest.approx(1e4 ** (-1 / 128))
    assert c.attention(5).rotary.inverse_frequencies[1] == pytest.approx(1e6 ** (-1 / 128))
    assert (c.attention(0).window, c.attention(5).window) == (512, None)


def test_gemmas_scale_is_that_of_the_configuration():
    assert configured(GEMMA_3_270M).attention(0).scale == pytest.approx(1 / 16)
    other = configured(GEMMA_3_270M | {"query_pre_attn_scalar": 168})
    assert other.attention(0).scale == pytest.approx(168**-0.5)


def test_qwens_upper_layers_have_a_window_where_it_is_switched_on():
    assert configured(QWEN2_5_0_5B).windows == ()
    windows = configured(QWEN2_5_0_5B | {"use_sliding_window": True}).windows
    assert windows == (None,) * 21 + (32768,) * 3


def test_layer_types_go_before_a_default():
    config = {"sliding_window": 8, "layer_types": [FULL, SLIDING]}
    assert windows_of(config, 2, (SLIDING, SLIDING)) == (None, 8)
    assert windows_of({"sliding_window": 8}, 2, (SLIDING, FULL)) == (8, None)
    assert windows_of({"sliding_window": 8}, 2) == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layer_types": [FULL, "chunked_attention"]}, "chunked_attention"),
        ({"layer_types": [FULL]}, "for 2 layers"),
        ({"layer_types": [FULL, SLIDING]}, "sliding_window is None"),
        ({"layer_types": [FULL, SLIDING], "sliding_window": 0}, "sliding_window is 0"),
    ],
)
def test_windows_that_contradict_are_refused(config, message):
    with pytest.raises(ConfigurationError, match=message):
        windows_of(config, 2)


# Rotary forms


def test_long_rope_is_exported_for_the_original_context():
    c = configured(PHI_3_MINI_128K)
    plain = configured(PHI_3_MINI).rotary
    assert c.context_length == 4096
    ratios = [
        before / after
        for before, after in zip(
            plain.inverse_frequencies, c.rotary.inverse_frequencies, strict=True
        )
    ]
    assert ratios == pytest.approx([1.0] * 24 + [2.0] * 24)
    assert plain.factor == 1
    assert c.rotary.factor == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))


def test_long_rope_of_one_factor_too_few_is_refused():
    scaling = PHI_3_MINI_128K["rope_scaling"] | {"short_factor": [1.0] * 47}
    with pytest.raises(RotaryError, match="47 numbers for 48"):
        configured(PHI_3_MINI_128K | {"rope_scaling": scaling})


def test_long_rope_without_its_original_context_is_refused():
    config = {k: v for k, v in PHI_3_MINI_128K.items() if not k.startswith("original")}
    with pytest.raises(ConfigurationError, match="original_max_position_embeddings"):
        configured(config)


def test_a_given_attention_factor_is_taken():
    scaling = PHI_3_MINI_128K["rope_scaling"] | {"attention_factor": 1.25}
    assert configured(PHI_3_MINI_128K | {"rope_scaling": scaling}).rotary.factor == 1.25


def test_gpt2_has_no_rotation():
    assert configured(GPT_2).attention(0).rotary is None


# Refusals


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (GEMMA_3_270M, {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        (GEMMA_3_270M, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        (GEMMA_3_270M, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA_3_270M, {"hidden_activation": "mish"}, "mish"),
        (GPT_2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (GPT_2, {"scale_attn_weights": False}, "scale_attn_weights is False"),
        (GPT_2, {"n_head": 11}, "multiple of n_head"),
        (GPT_2, {"architectures": ["GPT2DoubleHeadsModel"]}, "GPT2DoubleHeadsModel"),
    ],
)
def test_what_is_not_exported_is_refused(config, change, message):
    with pytest.raises(ConfigurationError, match=message):
        configured(config | change)

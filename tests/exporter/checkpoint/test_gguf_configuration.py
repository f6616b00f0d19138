"""The configuration rebuilt from GGUF fields, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgewise.exporter.checkpoint import CheckpointError, open_checkpoint
from edgewise.exporter.checkpoint.llama3_rotary import frequency_factors, llama3_scaling


def config_of(path: Path) -> dict[str, Any]:
    with open_checkpoint(str(path)) as checkpoint:
        return dict(checkpoint.config)


def test_the_keys_are_those_of_config_json(make_gguf: Any) -> None:
    path, original = make_gguf()
    assert config_of(path) == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 512,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "vocab_size": original["model.embed_tokens.weight"].shape[0],
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }


def test_qwen2_with_biases(make_gguf: Any) -> None:
    path, _ = make_gguf(architecture="qwen2", biases=True, tied=False)
    config = config_of(path)
    assert config["model_type"] == "qwen2"
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["attention_bias"] is True
    assert config["tie_word_embeddings"] is False
    assert config["use_sliding_window"] is False


def test_origin_and_recommended_sampling(make_gguf: Any) -> None:
    path, _ = make_gguf(
        fields={"general.sampling.temp": 0.7, "general.sampling.top_k": 20,
                "general.sampling.top_p": 0.8}
    )  # fmt: skip
    with open_checkpoint(str(path)) as checkpoint:
        assert checkpoint.origin.kind == "gguf"
        assert checkpoint.origin.name == "small.gguf"
        assert checkpoint.origin.file_type == "gguf"
        assert checkpoint.origin.license == "mit"
        assert checkpoint.origin.revision is None
        assert checkpoint.generation == {
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.8,
            "eos_token_id": [2, 0],
        }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"llama.rope.scaling.type": "none"}, None),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
         {"rope_type": "linear", "factor": 4.0}),
        ({"llama.rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        ({"llama.rope.scale_linear": 1.0}, None),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 8.0,
          "llama.rope.scaling.original_context_length": 4096},
         {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}),
    ],
)  # fmt: skip
def test_rotary_scaling(make_gguf: Any, fields: dict[str, Any], expected: object) -> None:
    path, _ = make_gguf(fields=fields)
    assert config_of(path)["rope_scaling"] == expected


def test_a_theta_that_is_not_given_is_the_usual_one(make_gguf: Any) -> None:
    path, _ = make_gguf(fields={"llama.rope.freq_base": None})
    assert config_of(path)["rope_theta"] == 10000.0


def test_a_head_size_of_its_own(make_gguf: Any) -> None:
    path, _ = make_gguf(
        fields={"llama.attention.key_length": 64, "llama.attention.value_length": 64}
    )
    assert config_of(path)["head_dim"] == 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba'; .*llama, .*qwen2"),
        ({"llama.expert_count": 8}, "mixture of experts .*= 8"),
        ({"llama.block_count": None}, "no field llama.block_count"),
        ({"llama.embedding_length": 0}, "llama.embedding_length = 0"),
        ({"llama.attention.head_count_kv": 3}, "4 attention heads over 3"),
        ({"llama.attention.head_count_kv": [2, 1]}, "the same for all layers"),
        ({"llama.attention.key_length": 64, "llama.attention.value_length": 32}, "64 for keys"),
        ({"llama.rope.dimension_count": 32}, "rotates 32 of the 64"),
        ({"llama.context_length": "long"}, "context_length = 'long'"),
        ({"llama.attention.layer_norm_rms_epsilon": math.nan}, "a finite number is accepted"),
        ({"llama.rope.freq_base": -1.0}, "freq_base = -1.0"),
        ({"split.count": 3}, "one of 3 parts; join them"),
        ({"llama.attention.key_length": 48, "llama.rope.dimension_count": 48},
         "no whole number of heads of 48"),
    ],
)  # fmt: skip
def test_what_can_not_be_expressed_is_refused(
    make_gguf: Any, fields: dict[str, Any], message: str
) -> None:
    architecture = fields.pop("general.architecture", None)
    path, _ = make_gguf(fields=fields)
    if architecture is not None:
        content = path.read_bytes()
        path.write_bytes(
            content.replace(
                b"\x05\x00\x00\x00\x00\x00\x00\x00llama",
                len(architecture).to_bytes(8, "little") + architecture.encode(),
                1,
            )
        )
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(path))


def test_tensors_that_the_architecture_does_not_know_are_named(make_gguf: Any) -> None:
    extra = np.ones(4, np.float32)
    path, _ = make_gguf(tensors={"blk.0.attn_q_norm.weight": extra, "cls.weight": extra})
    with pytest.raises(CheckpointError, match=r"blk\.0\.attn_q_norm\.weight, cls\.weight"):
        open_checkpoint(str(path))


def llama3_factors(scaling: dict[str, Any], theta: float, head_size: int) -> Any:
    return frequency_factors(
        theta,
        head_size,
        factor=scaling["factor"],
        context=scaling["original_max_position_embeddings"],
        low=scaling["low_freq_factor"],
        high=scaling["high_freq_factor"],
    )


def test_frequency_factors_follow_the_published_rule() -> None:
    """Against a plain transcription of the rule, frequency by frequency."""
    theta, head_size, factor, context, low, high = 500000.0, 64, 32.0, 8192, 1.0, 4.0
    expected = []
    for pair in range(head_size // 2):
        wavelength = 2 * math.pi * theta ** (2 * pair / head_size)
        if wavelength < context / high:
            expected.append(1.0)
        elif wavelength > context / low:
            expected.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            expected.append(1 / ((1 - smooth) / factor + smooth))
    given = frequency_factors(theta, head_size, factor=factor, context=context, low=low, high=high)
    assert np.allclose(given, expected, rtol=1e-12)
    assert 1.0 < sorted(set(given))[1] < factor


@pytest.mark.parametrize(
    ("factor", "head_size"), [(8.0, 128), (32.0, 64), (32.0, 128)], ids=["3.1", "3.2-1B", "3.2-3B"]
)
def test_llama3_scaling_is_found_from_the_factors(
    make_gguf: Any, factor: float, head_size: int
) -> None:
    expected = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = llama3_factors(expected, 500000.0, head_size).astype(np.float32)
    assert llama3_scaling(factors, 500000.0) == expected
    if head_size == 64:
        path, _ = make_gguf(tensors={"rope_freqs.weight": factors})
        with open_checkpoint(str(path)) as checkpoint:
            assert checkpoint.config["rope_scaling"] == expected
            assert not any("rope" in name for name in checkpoint.tensors)


@settings(max_examples=100, deadline=None)
@given(
    factor=st.floats(1.5, 64),
    context=st.integers(1024, 65536),
    low=st.floats(0.5, 2),
    ratio=st.floats(2, 16),
)
def test_any_llama3_scaling_is_found_up_to_its_ratios(
    factor: float, context: int, low: float, ratio: float
) -> None:
    given_scaling = {
        "factor": round(factor, 3),
        "low_freq_factor": low,
        "high_freq_factor": low * ratio,
        "original_max_position_embeddings": context,
    }
    factors = llama3_factors(given_scaling, 500000.0, 128).astype(np.float32)
    between = (factors > 1.001) & (factors < factors.max() * 0.999)
    assume(between.sum() >= 3 and factors.max() == np.float32(given_scaling["factor"]))
    found = llama3_scaling(factors, 500000.0)
    assert found is not None
    assert np.allclose(llama3_factors(found, 500000.0, 128), factors, rtol=1e-3)
    assert math.isclose(found["original_max_position_embeddings"], context / low, rel_tol=0.02)


def test_factors_of_another_scaling_are_refused(make_gguf: Any) -> None:
    assert llama3_scaling(np.linspace(1, 40, 32, dtype=np.float32) ** 2, 500000.0) is None
    assert llama3_scaling(np.full(32, np.nan, np.float32), 500000.0) is None
    path, _ = make_gguf(tensors={"rope_freqs.weight": np.linspace(1, 9, 32, dtype=np.float32)})
    with pytest.raises(CheckpointError, match="in another way than llama 3"):
        open_checkpoint(str(path))
    path, _ = make_gguf(tensors={"rope_freqs.weight": np.ones(32, np.float32)})
    assert config_of(path)["rope_scaling"] is None

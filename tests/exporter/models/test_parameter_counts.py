"""Exact parameter counts from the true configurations, without a weight.

A configuration is a file in data/configs. The counts are published ones, or sums of the shapes that
the papers give; a definition that forgets a bias or a norm, or counts a tied matrix twice, fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgewise.exporter.checkpoint.rotary_configuration import with_one_rotary_form
from edgewise.exporter.models import find_model

CONFIGS = Path(__file__).parents[2] / "data" / "configs"
COUNTS = {
    "all-minilm-l6-v2": 22_565_376,  # 22,713,216 with the pooler, which embeddings do not use
    "bart-base": 139_470_681,  # 139,420,416 and final_logits_bias, to PyTorch no parameter
    "bert-base-uncased": 109_514_298,
    "distilbert-base-uncased": 66_985_530,
    "flame": 60_441_088,  # the paper says 60M
    "flame-tied": 52_249_088,
    "flan-t5-base": 247_577_856,
    "flan-t5-large": 783_150_080,
    "flan-t5-small": 76_961_152,
    "flan-t5-xl": 2_849_757_184,
    "gemma-3-270m": 268_098_176,
    "gpt2": 124_439_808,
    "litellama-460m": 461_685_760,
    "llava-1.5-7b": 6_738_939_904 + 290_909_184 + 20_979_712,  # 23 of 24 layers of the tower
    "llava-phi": 2_779_683_840 + 290_909_184 + 9_180_160,  # Phi-2, 23 of 24 layers, projector
    "orca-2-13b": 13_015_895_040,
    "orca-2-7b": 6_738_440_192,
    "phi-1": 1_418_270_720,
    "phi-1_5": 1_418_270_720,
    "phi-2": 2_779_683_840,
    "phi-2-msft": 2_779_683_840,
    "phi-3-mini-4k": 3_821_079_552,
    "qwen2.5-coder-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920,
    "roberta-base": 124_697_433,
    "roberta-base-encoder": 124_055_040,
    "roberta-large": 355_412_057,
    "roberta-large-encoder": 354_310_144,
    "slade": 186_662_720,  # with a vocabulary of 8,000; the paper says about 200M
    "smollm2-135m": 134_515_008,
    "t5-small": 60_506_624,
    "tinyllama-1.1b": 1_100_048_384,
    "ul2": 19_459_613_696,
}
# float16 keys and values that a token adds, in bytes.
CACHE_BYTES = {
    "tinyllama-1.1b": 22_528,
    "litellama-460m": 12_288,
    "phi-1": 196_608,
    "phi-1_5": 196_608,
    "phi-2": 327_680,
    "phi-2-msft": 327_680,
    "orca-2-7b": 524_288,
}


def read_config(name: str) -> dict[str, Any]:
    return with_one_rotary_form(json.loads((CONFIGS / f"{name}.json").read_text()))


def test_every_configuration_has_a_count() -> None:
    assert sorted(path.stem for path in CONFIGS.glob("*.json")) == sorted(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters(name: str) -> None:
    config = read_config(name)
    definition = find_model(config["model_type"])
    tensors = definition.tensors(definition.configuration(config))
    assert sum(tensor.parameters for tensor in tensors.values()) == COUNTS[name]


@pytest.mark.parametrize("name", CACHE_BYTES)
def test_cache_of_a_token(name: str) -> None:
    config = read_config(name)
    c = find_model(config["model_type"]).configuration(config)
    assert 2 * c.layers * c.key_value_heads * c.head_size * 2 == CACHE_BYTES[name]

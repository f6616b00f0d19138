"""Sizes against closed forms, against the quantizers' own arrays, and against published counts."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.exporter.model_size import (
    ModelSize,
    bytes_by_role,
    bytes_per_parameter,
    matrix_bytes,
    weights_bytes,
)
from edgewise.exporter.quantize.blockwise import quantize_blockwise

BLOCK_FORMATS = [
    (bits, size, asymmetric)
    for bits in (4, 8)
    for size in (32, 64, 128)
    for asymmetric in (False, True)
]


def text_of(bits: int, size: int, asymmetric: bool) -> str:
    return f"int{bits}-block{size}" + ("-asymmetric" if asymmetric else "")


def uniform(text: str) -> dict[str, str]:
    return dict.fromkeys(("embedding", "attention", "mlp", "head"), text)


def llama(
    *,
    layers: int,
    hidden: int,
    heads: int,
    key_value_heads: int,
    head_size: int,
    mlp: int,
    vocabulary: int,
    tied: bool = False,
) -> ModelSize:
    attention = layers * [
        (heads * head_size, hidden),
        (key_value_heads * head_size, hidden),
        (key_value_heads * head_size, hidden),
        (hidden, heads * head_size),
    ]
    shapes = {
        "embedding": [(vocabulary, hidden)],
        "attention": attention,
        "mlp": layers * [(mlp, hidden), (mlp, hidden), (hidden, mlp)],
        "norm": (2 * layers + 1) * [(hidden,)],
    }
    if not tied:
        shapes["head"] = [(vocabulary, hidden)]
    return ModelSize(shapes, tied, layers, key_value_heads, head_size)


TINY_LLAMA = llama(
    layers=22,
    hidden=2048,
    heads=32,
    key_value_heads=4,
    head_size=64,
    mlp=5632,
    vocabulary=32000,
)
SMOL_LM2 = llama(
    layers=30,
    hidden=576,
    heads=9,
    key_value_heads=3,
    head_size=64,
    mlp=1536,
    vocabulary=49152,
    tied=True,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fp32", Fraction(4)),
        ("fp16", Fraction(2)),
        ("int8", Fraction(1)),
        ("int4-channel", Fraction(1, 2)),
        ("int8-block32", 1 + Fraction(4, 32)),
        ("int8-block128", 1 + Fraction(4, 128)),
        ("int8-block64-asymmetric", 1 + Fraction(4, 64) + Fraction(1, 64)),
        ("int4-block32", Fraction(1, 2) + Fraction(4, 32)),
        ("int4-block64", Fraction(1, 2) + Fraction(4, 64)),
        ("int4-block32-asymmetric", Fraction(1, 2) + Fraction(4, 32) + Fraction(1, 64)),
        ("int4-block128-asymmetric", Fraction(1, 2) + Fraction(4, 128) + Fraction(1, 256)),
    ],
)
def test_bytes_per_parameter(text: str, expected: Fraction) -> None:
    assert bytes_per_parameter(text) == expected


@pytest.mark.parametrize("text", ["keep", "int4", "int4-block16", "int8-block32-symmetric", ""])
def test_formats_of_unknown_size_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no weight format of known size"):
        bytes_per_parameter(text)


@given(
    st.integers(1, 50),
    st.integers(1, 12),
    st.sampled_from(BLOCK_FORMATS),
)
def test_whole_blocks_cost_what_the_closed_form_says(
    rows: int, half_kilos: int, block: tuple[int, int, bool]
) -> None:
    columns = half_kilos * 512  # a multiple of every block, with an even number of blocks
    expected = bytes_per_parameter(text_of(*block)) * rows * columns
    assert matrix_bytes(text_of(*block), rows, columns) == expected


@pytest.mark.parametrize("block", BLOCK_FORMATS)
@pytest.mark.parametrize("shape", [(3, 128), (5, 384), (1, 640)])
def test_blocks_cost_what_the_quantizer_makes(
    block: tuple[int, int, bool], shape: tuple[int, int]
) -> None:
    bits, size, asymmetric = block
    weights = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    made = quantize_blockwise(
        weights, bits=bits, block_size=size, symmetric=not asymmetric, search=False
    )
    arrays = [made.packed, made.scales, *([made.zero_points] if asymmetric else [])]
    assert matrix_bytes(text_of(*block), *shape) == sum(array.nbytes for array in arrays)


def test_rows_are_padded_to_whole_blocks() -> None:
    assert matrix_bytes("int4-block32", 10, 33) == 10 * (2 * 16 + 2 * 4)
    assert matrix_bytes("int4-block32-asymmetric", 10, 96) == 10 * (3 * 16 + 3 * 4 + 2)


def test_channels_have_one_scale_a_row() -> None:
    assert matrix_bytes("int8", 10, 300) == 10 * 300 + 10 * 4
    assert matrix_bytes("int4-channel", 10, 301) == 10 * 151 + 10 * 4


def test_kept_blocks_are_counted_as_their_largest_kind() -> None:
    assert matrix_bytes("keep", 4, 64) == matrix_bytes("int8-block32", 4, 64)


@pytest.mark.parametrize(
    ("name", "layers", "key_value_heads", "head_size", "expected"),
    [
        ("TinyLlama", 22, 4, 64, 22_528),
        ("LiteLlama", 24, 2, 64, 12_288),
        ("Phi-1.5", 24, 32, 64, 196_608),
        ("Phi-2", 32, 32, 80, 327_680),
        ("Orca-2-7B", 32, 32, 128, 524_288),
    ],
)
def test_cache_bytes_per_token_in_float16(
    name: str, layers: int, key_value_heads: int, head_size: int, expected: int
) -> None:
    model = ModelSize({}, False, layers, key_value_heads, head_size)
    assert model.cache_bytes_per_token("float16") == expected, name
    assert model.cache_bytes_per_token("float32") == 2 * expected
    assert model.cache_bytes_per_token("int8") == expected // 2


def test_a_whole_model_in_float32_is_four_bytes_a_published_parameter() -> None:
    assert weights_bytes(TINY_LLAMA, uniform("fp32"), "onnx") == 4 * 1_100_048_384
    assert weights_bytes(SMOL_LM2, uniform("fp32"), "onnx") == 4 * 134_515_008


def test_a_mixed_recipe_adds_up_by_role() -> None:
    formats = {
        "embedding": "int8-block32",
        "attention": "int4-block32",
        "mlp": "int4-block64",
        "head": "int8",
    }
    sizes = bytes_by_role(TINY_LLAMA, formats, "onnx")
    attention = 22 * (2 * 2048 * 2048 + 2 * 256 * 2048)
    mlp = 22 * 3 * 5632 * 2048
    assert sizes == {
        "embedding": 32000 * 2048 * 9 // 8,
        "attention": attention * 5 // 8,
        "mlp": mlp * 9 // 16,
        "norm": 45 * 2048 * 4,
        "head": 32000 * 2048 + 32000 * 4,
    }
    assert weights_bytes(TINY_LLAMA, formats, "onnx") == sum(sizes.values())


def test_a_tied_head_is_stored_once_where_it_can_read_the_embedding() -> None:
    table = 49152 * 576
    for text, runtime in (("int8-block32", "onnx"), ("fp32", "onnx"), ("int8", "tflite")):
        assert "head" not in bytes_by_role(SMOL_LM2, uniform(text), runtime)
    # onnxruntime wants int8 matrices transposed.
    assert bytes_by_role(SMOL_LM2, uniform("int8"), "onnx")["head"] == table + 4 * 49152
    other = uniform("int4-block32") | {"embedding": "int8-block32"}
    assert bytes_by_role(SMOL_LM2, other, "onnx")["head"] == table * 5 // 8


def test_onnxruntime_holds_float16_as_float32() -> None:
    half = weights_bytes(TINY_LLAMA, uniform("fp16"), "tflite")
    norms = 45 * 2048
    assert half == 2 * (1_100_048_384 - norms) + 4 * norms
    assert weights_bytes(TINY_LLAMA, uniform("fp16"), "onnx") == 4 * 1_100_048_384


def test_vectors_stay_in_float32() -> None:
    model = ModelSize({"attention": [(64,)], "bias": [(10,)]}, False, 1, 1, 1)
    assert weights_bytes(model, uniform("int4-block32"), "onnx") == 4 * 74


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(BLOCK_FORMATS))
def test_no_matrix_is_smaller_than_its_numbers(
    rows: int, columns: int, block: tuple[int, int, bool]
) -> None:
    assert matrix_bytes(text_of(*block), rows, columns) >= math.ceil(
        bytes_per_parameter(text_of(*block)) * rows * columns
    )

"""The stored blocks, multiplied by onnxruntime itself."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewise.exporter.quantize.blockwise import quantize_blockwise
from edgewise.exporter.quantize.gguf_blocks import convert_blocks

FORMS = [
    (bits, block_size, symmetric)
    for bits in (4, 8)
    for block_size in (32, 64, 128)
    for symmetric in (True, False)
]


def multiply(x, quantized, accuracy_level):
    rows, columns = quantized.shape
    arrays = {name: array for name, array in quantized.arrays().items() if name != "minimums"}
    node = helper.make_node(
        "MatMulNBits",
        ["x", *arrays],
        ["y"],
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=quantized.bits,
        block_size=quantized.block_size,
        accuracy_level=accuracy_level,
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (len(x), rows))],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def largest_relative_error(found, x, weights):
    """Relative to the sum of magnitudes that each product adds up."""
    exact = x.astype(np.float64) @ weights.astype(np.float64).T
    magnitude = np.abs(x).astype(np.float64) @ np.abs(weights).astype(np.float64).T
    return (np.abs(found - exact) / magnitude).max()


@pytest.mark.parametrize(("bits", "block_size", "symmetric"), FORMS)
@pytest.mark.parametrize("tokens", [1, 5])
def test_float32_products_are_those_of_the_dequantized_weights(
    bits, block_size, symmetric, tokens, heavy_tailed
):
    weights = heavy_tailed(48, 3 * block_size)
    quantized = quantize_blockwise(weights, bits=bits, block_size=block_size, symmetric=symmetric)
    if symmetric:
        assert (quantized.scales < 0).any()
        assert (quantized.scales > 0).any()
    x = np.random.default_rng(1).standard_normal((tokens, weights.shape[1])).astype(np.float32)
    found = multiply(x, quantized, accuracy_level=1)
    assert largest_relative_error(found, x, quantized.dequantize()) < 1e-6


@pytest.mark.parametrize(("bits", "block_size", "symmetric"), FORMS)
@pytest.mark.parametrize("tokens", [1, 5])
def test_int8_activations_take_the_same_arrays(bits, block_size, symmetric, tokens, heavy_tailed):
    weights = heavy_tailed(48, 3 * block_size)
    quantized = quantize_blockwise(weights, bits=bits, block_size=block_size, symmetric=symmetric)
    x = np.random.default_rng(1).standard_normal((tokens, weights.shape[1])).astype(np.float32)
    found = multiply(x, quantized, accuracy_level=4)
    assert largest_relative_error(found, x, quantized.dequantize()) < 5e-3


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_input_channels_that_do_not_fill_the_last_block(bits, symmetric, heavy_tailed):
    weights = heavy_tailed(16, 80)
    quantized = quantize_blockwise(weights, bits=bits, block_size=32, symmetric=symmetric)
    x = np.random.default_rng(1).standard_normal((3, 80)).astype(np.float32)
    found = multiply(x, quantized, accuracy_level=1)
    assert largest_relative_error(found, x, quantized.dequantize()) < 1e-6


@pytest.mark.parametrize("stored_type", ["Q4_0", "Q8_0"])
def test_kept_gguf_blocks(stored_type, gguf_source):
    source = gguf_source("kept", stored_type, 24, 96)
    quantized = convert_blocks(source.raw, stored_type)
    x = np.random.default_rng(1).standard_normal((3, 96)).astype(np.float32)
    found = multiply(x, quantized, accuracy_level=1)
    assert largest_relative_error(found, x, source.values) < 1e-6

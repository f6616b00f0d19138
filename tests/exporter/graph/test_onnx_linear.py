"""Single products and look-ups, run by onnxruntime, against the numbers that are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from tiny_checkpoint import ArraySource

from edgewise.exporter.graph.onnx_graph import OnnxGraph
from edgewise.exporter.graph.onnx_linear import LinearLowering
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.quantize.recipes import Recipe, WeightFormat
from edgewise.exporter.quantize.streaming import quantize_tensors

RANDOM = np.random.default_rng(11)
BLOCKS = [
    f"int{bits}-block{size}{ending}"
    for bits in (4, 8)
    for size in (32, 64, 128)
    for ending in ("", "-asymmetric")
]


def weight(name: str, rows: int, columns: int, role: str = "attention") -> Weight:
    # A row scale of its own, an offset, so that zero points and channel scales matter.
    values = RANDOM.normal(0.1, 1, (rows, columns)) * RANDOM.uniform(0.01, 2, (rows, 1))
    return Weight(f"{name}.weight", role, ArraySource(values.astype(np.float32)))


def bias(name: str, rows: int) -> Weight:
    return Weight(f"{name}.bias", "bias", ArraySource(RANDOM.normal(0, 1, rows).astype(np.float32)))


def inputs(tokens: int, columns: int) -> NDArray[np.float32]:
    """Activations with an outlier, as real ones have."""
    x = RANDOM.normal(0, 1, (1, tokens, columns)).astype(np.float32)
    x[:, :, 3] *= 30
    return x


@dataclass(frozen=True)
class Built:
    session: onnxruntime.InferenceSession
    graph: onnx.GraphProto

    @property
    def operators(self) -> list[str]:
        return [node.op_type for node in self.graph.node]

    def __call__(self, x: NDArray[np.generic]) -> NDArray[np.float32]:
        (result,) = self.session.run(None, {"x": x})
        return result


def build(
    folder: Path,
    recipe: str,
    describe: Callable[[LinearLowering], str],
    kind: int = TensorProto.FLOAT,
    columns: int | str = "columns",
) -> Built:
    """Build a graph of one operation on the input "x"."""
    with WeightFile(folder / "w.data") as weights:
        graph = OnnxGraph(weights)
        shape = ["batch", "tokens"] + ([columns] if kind == TensorProto.FLOAT else [])
        graph.add_input("x", kind, shape)
        edge = describe(LinearLowering(graph, Recipe.parse(recipe)))
        graph.node("Identity", [edge], "y")
        graph.add_output("y", TensorProto.FLOAT, ["batch", "tokens", "rows"])
        model = graph.to_model("test")
    onnx.save(model, folder / "m.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "m.onnx"), options)
    return Built(session, model.graph)


def stored(weights: Sequence[Weight], form: str) -> NDArray[np.float64]:
    """The matrix that a format stores, rows of all weights."""
    parsed = WeightFormat.parse(form)
    parts = []
    for each in weights:
        quantized = quantize_tensors([each.source], parsed)
        if quantized is not None:
            parts.append(quantized.dequantize())
        elif parsed.kind == "float16":
            parts.append(each.source.read().astype(np.float16))
        else:
            parts.append(each.source.read())
    return np.concatenate([part.astype(np.float64) for part in parts])


def assert_close(actual: NDArray[np.float32], expected: NDArray[np.float64], rel: float) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= rel * np.abs(expected).max()


# Products


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("form", ["fp32", "fp16", "keep", *BLOCKS])
def test_with_float32_activations_the_stored_numbers_are_multiplied(tmp_path, form, tokens):
    weights = [weight(name, rows, 128) for name, rows in (("q", 48), ("k", 16), ("v", 16))]
    recipe = form if form in ("fp32", "fp16", "keep") else f"{form},activations=float32"
    built = build(tmp_path, recipe, lambda lowering: lowering.linear("x", weights, None))
    x = inputs(tokens, 128)
    assert_close(built(x), x.astype(np.float64) @ stored(weights, form).T, 2e-6)
    assert "Concat" not in built.operators  # one product for the pack


@pytest.mark.parametrize("columns", [32, 33, 48, 96, 100, 160, 200])
@pytest.mark.parametrize("form", BLOCKS)
def test_rows_that_are_no_whole_blocks_are_multiplied_to_their_end(tmp_path, form, columns):
    weights = [weight("o", 24, columns)]
    built = build(
        tmp_path,
        f"{form},activations=float32",
        lambda lowering: lowering.linear("x", weights, None),
    )
    x = inputs(3, columns)
    assert_close(built(x), x.astype(np.float64) @ stored(weights, form).T, 2e-6)


@pytest.mark.parametrize("form", ["fp32", "fp16", "int8", *BLOCKS[::3]])
@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_biases_are_added(tmp_path, form, activations):
    plain = form in ("fp32", "fp16", "int8")
    recipe = form if plain else f"{form},activations={activations}"
    weights = [weight("q", 32, 64), weight("k", 16, 64)]
    biases = [bias("q", 32), bias("k", 16)]
    with_bias = build(
        tmp_path, recipe, lambda lowering: lowering.linear("x", weights, biases), columns=64
    )
    (tmp_path / "plain").mkdir()
    without = build(
        tmp_path / "plain", recipe, lambda lowering: lowering.linear("x", weights, None), columns=64
    )
    x = inputs(4, 64)
    joined = np.concatenate([each.source.read() for each in biases])
    assert_close(with_bias(x), without(x).astype(np.float64) + joined, 2e-6)


def test_eight_bits_become_two_products_of_four(tmp_path):
    """onnxruntime has no kernel for 8 bits with float32 activations."""
    weights = [weight("o", 24, 64)]
    recipe = "int8-block32,activations=float32"
    built = build(tmp_path, recipe, lambda lowering: lowering.linear("x", weights, None))
    products = [node for node in built.graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == 2
    for node in products:
        bits = next(item.i for item in node.attribute if item.name == "bits")
        assert bits == 4
    blocks = quantize_tensors([weights[0].source], WeightFormat.parse("int8-block32"))
    length = {tensor.name: np.prod(tensor.dims) for tensor in built.graph.initializer}
    assert sum(length[node.input[1]] for node in products) == blocks.packed.size


def test_block_sums_are_taken_once_for_all_products_of_an_input(tmp_path):
    first, second = [weight("gate", 24, 100)], [weight("up", 24, 100)]

    def both(lowering: LinearLowering) -> str:
        edges = [lowering.linear("x", pack, None) for pack in (first, second)]
        return lowering._graph.node("Add", edges, "sum")

    built = build(tmp_path, "int8-block64,activations=float32", both)
    assert built.operators.count("ReduceSum") == 1
    assert built.operators.count("Pad") == 1
    x = inputs(2, 100)
    matrix = stored(first, "int8-block64") + stored(second, "int8-block64")
    assert_close(built(x), x.astype(np.float64) @ matrix.T, 4e-6)


def quantized_rows(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """What each row of x is after int8 with one scale: computed in float32, as the graph does."""
    largest = np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.float32(1e-12))
    scale = largest * np.float32(1 / 127)
    return np.rint(x / scale).astype(np.float64) * scale


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize(("rows", "columns"), [(48, 128), (17, 33), (1, 1), (64, 1000)])
def test_int8_multiplies_rows_scaled_one_by_one(tmp_path, rows, columns, tokens):
    weights = [weight("o", rows, columns)]
    built = build(tmp_path, "int8", lambda lowering: lowering.linear("x", weights, None))
    x = RANDOM.normal(0, 1, (1, tokens, columns)).astype(np.float32)
    assert_close(built(x), quantized_rows(x) @ stored(weights, "int8").T, 1e-5)


def test_int8_sums_do_not_saturate(tmp_path):
    """Codes at both ends in every place: a 16-bit sum of products would clip."""
    columns = 512
    weights = [
        Weight("o.weight", "attention", ArraySource(np.full((8, columns), sign, np.float32)))
        for sign in (1, -1)
    ]
    built = build(tmp_path, "int8", lambda lowering: lowering.linear("x", weights, None))
    x = np.ones((1, 2, columns), np.float32)
    x[0, 1] = -1
    expected = np.outer([1, -1], [*[columns] * 8, *[-columns] * 8])[None].astype(np.float64)
    assert_close(built(x), expected, 1e-6)


@pytest.mark.parametrize("recipe", ["int8", "int4-block32", "int8-block32,activations=float32"])
def test_a_token_of_zeros_gives_zeros(tmp_path, recipe):
    weights = [weight("o", 16, 64)]
    built = build(tmp_path, recipe, lambda lowering: lowering.linear("x", weights, None))
    x = inputs(3, 64)
    x[0, 1] = 0
    actual = built(x)
    assert np.array_equal(actual[0, 1], np.zeros(16, np.float32))
    assert np.isfinite(actual).all()


@pytest.mark.parametrize("form", BLOCKS)
def test_int8_activations_in_blocks_stay_within_their_rounding(tmp_path, form):
    """Each activation is off by at most half a step of its block: 1/254 of the largest there."""
    weights = [weight("o", 24, 128)]
    built = build(tmp_path, form, lambda lowering: lowering.linear("x", weights, None))
    x = inputs(4, 128)
    matrix = stored(weights, form)
    size = WeightFormat.parse(form).block_size
    largest = np.abs(x.reshape(1, 4, -1, size)).max(axis=-1, keepdims=True)
    step = np.broadcast_to(largest, (1, 4, 128 // size, size)).reshape(1, 4, 128) / 127
    allowed = 0.51 * step @ np.abs(matrix.T) + 1e-4
    assert (np.abs(built(x) - x.astype(np.float64) @ matrix.T) <= allowed).all()


# Kept blocks


@dataclass(frozen=True)
class BlockSource:
    """A tensor of GGUF blocks in memory."""

    raw: NDArray[np.uint8]
    stored_type: str
    shape: tuple[int, int]

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        kind = gguf.GGMLQuantizationType[self.stored_type]
        return gguf.dequantize(self.raw[start:stop], kind)

    def read_blocks(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        return self.raw[start:stop]


def block_weight(name: str, rows: int, columns: int, kind: str) -> Weight:
    values = RANDOM.normal(0.2, 1, (rows, columns)).astype(np.float32)
    raw = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
    return Weight(f"{name}.weight", "attention", BlockSource(raw, kind, (rows, columns)))


@pytest.mark.parametrize("kinds", [("Q4_0",), ("Q4_1",), ("Q8_0",), ("Q4_1", "Q4_1"), ("Q5_0",)])
def test_kept_blocks_are_multiplied_as_they_decode(tmp_path, kinds):
    weights = [block_weight(f"w{index}", 16, 96, kind) for index, kind in enumerate(kinds)]
    built = build(tmp_path, "keep", lambda lowering: lowering.linear("x", weights, None))
    x = inputs(3, 96)
    matrix = np.concatenate([each.source.read() for each in weights]).astype(np.float64)
    assert_close(built(x), x.astype(np.float64) @ matrix.T, 2e-6)


def test_a_pack_of_several_kinds_is_multiplied_one_by_one(tmp_path):
    kinds = ("Q4_1", "Q8_0", "F16")
    weights = [block_weight(kind, 16, 96, kind) for kind in kinds[:2]]
    weights.append(weight("F16", 8, 96))
    biases = [bias(kind, rows) for kind, rows in zip(kinds, (16, 16, 8), strict=True)]
    built = build(tmp_path, "keep", lambda lowering: lowering.linear("x", weights, biases))
    x = inputs(3, 96)
    matrix = np.concatenate([each.source.read() for each in weights]).astype(np.float64)
    joined = np.concatenate([each.source.read() for each in biases])
    assert_close(built(x), x.astype(np.float64) @ matrix.T + joined, 2e-6)
    assert "Concat" in built.operators


# Look-ups


@pytest.mark.parametrize("columns", [128, 100])
@pytest.mark.parametrize("form", ["fp32", "fp16", "int8", "keep", *BLOCKS])
def test_a_look_up_gives_the_stored_rows(tmp_path, form, columns):
    """Rows that are no whole blocks are looked up in float32: onnxruntime takes none."""
    table = weight("embed", 50, columns, "embedding")
    recipe = f"fp32,embedding={form}"
    built = build(
        tmp_path, recipe, lambda lowering: lowering.embedding("x", table), TensorProto.INT64
    )
    ids = np.asarray([[0, 49, 7], [7, 7, 1]])
    whole_blocks = "block" not in form or columns % (WeightFormat.parse(form).block_size or 1) == 0
    expected = stored([table], form if whole_blocks else "fp32")[ids]
    actual = built(ids)
    assert actual.dtype == np.float32
    assert_close(actual, expected, 1e-7)
    assert ("GatherBlockQuantized" in built.operators) == ("block" in form and whole_blocks)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q5_1"])
def test_a_kept_table_is_looked_up_as_it_decodes(tmp_path, kind):
    table = block_weight("embed", 20, 64, kind)
    table = Weight(table.name, "embedding", table.source)
    built = build(
        tmp_path, "keep", lambda lowering: lowering.embedding("x", table), TensorProto.INT64
    )
    ids = np.asarray([[3, 19, 0]])
    assert_close(built(ids), table.source.read().astype(np.float64)[ids], 1e-7)
    assert ("GatherBlockQuantized" in built.operators) == (kind in ("Q4_0", "Q8_0"))


def test_a_norm_is_no_matrix(tmp_path):
    wrong = weight("norm", 8, 64, "norm")
    with pytest.raises(ValueError, match="'norm' is no matrix"):
        build(tmp_path, "fp32", lambda lowering: lowering.linear("x", [wrong], None))


@pytest.mark.parametrize("recipe", ["int4", "int4,activations=float32", "int8-block32", "int8"])
def test_a_pack_is_read_once(tmp_path, recipe):
    """Reading and searching scales is what an export spends its time on."""
    reads = []

    class CountingSource(ArraySource):
        def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
            reads.append((start, stop))
            return super().read(start, stop)

    source = CountingSource(weight("o", 16, 64).source.read())
    pack = [Weight("o.weight", "attention", source)]
    build(tmp_path, recipe, lambda lowering: lowering.linear("x", pack, None))
    assert reads == [(0, 16)]

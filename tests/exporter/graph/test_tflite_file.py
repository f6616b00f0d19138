"""How a .tflite file is laid out, what it holds, and what of it XNNPACK runs."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tflite_partitions import outside_of_partitions
from tiny_checkpoint import DATA, ArraySource, TinyModel, load_case

from edgewise.exporter.graph.tflite_builder import TfliteBuilder
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_graph import ElementType, Operator, TfliteGraph
from edgewise.exporter.graph.tflite_signatures import Signature, signatures
from edgewise.exporter.graph.tflite_text import describe_tflite
from edgewise.exporter.graph.tflite_weights import (
    SCALES,
    TFLITE_RUNTIME,
    TfliteFormatError,
    WeightStore,
)
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.quantize.recipes import Recipe, WeightFormat
from edgewise.exporter.quantize.streaming import quantize_tensors

CONTEXT = 128


def build(name: str, path: Path, recipe: str, graphs) -> Path:
    model, file = TinyModel(load_case(name)), TfliteFile()
    weights = WeightStore(file, Recipe.parse(recipe))
    for signature in graphs:
        builder = TfliteBuilder(file, weights, signature, CONTEXT)
        model.forward(builder)
        builder.finish()
    file.write(path)
    return path


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("llama_tied_wide_head", "int8"), ("qwen2_untied", "int8,mlp=int4-block32,head=fp16")],
)
def test_the_structure_is_the_golden_one(tmp_path, name, recipe):
    """Set EDGEWISE_UPDATE_GOLDENS to write the files anew; the change shows in review."""
    path = build(name, tmp_path / "model.tflite", recipe, (Signature(1, CONTEXT), Signature(8, 16)))
    text = describe_tflite(path)
    golden = DATA / "tflite" / f"{name}.txt"
    if os.environ.get("EDGEWISE_UPDATE_GOLDENS"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


LOOK_UPS = ["EMBEDDING_LOOKUP", "EMBEDDING_LOOKUP"]


@pytest.mark.parametrize(
    "recipe", ["fp32", "fp16", "int8", "int4", "int8,mlp=int4-block32", "int4-channel"]
)
@pytest.mark.parametrize(
    ("graph", "casts"),
    [(Signature(1, 16), 1), (Signature(8, 0), 1), (Signature(8, 16), 2)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_xnnpack_runs_all_but_look_ups_and_casts_in_one_partition(tmp_path, recipe, graph, casts):
    path = build("qwen2_untied", tmp_path / "model.tflite", recipe, (graph,))
    partitions, outside = outside_of_partitions(path)
    look_ups = ["DEQUANTIZE", "EMBEDDING_LOOKUP", "GATHER"] if recipe == "fp16" else LOOK_UPS
    if recipe.startswith("int8"):
        look_ups = [*look_ups, "EMBEDDING_LOOKUP"]  # of the scales of rows
    assert partitions == 1
    assert outside == sorted([*look_ups, *["CAST"] * casts])


def test_graphs_share_every_weight(tmp_path):
    one = build("llama_tied_wide_head", tmp_path / "one", "int8", (Signature(1, 16),))
    graphs = (Signature(1, 16), Signature(1, 32), Signature(1, 64), Signature(8, 64))
    four = build("llama_tied_wide_head", tmp_path / "four", "int8", graphs)
    models = [schema.ModelT.InitFromPackedBuf(bytearray(path.read_bytes())) for path in (one, four)]
    large = [sorted(b.size for b in model.buffers if b.size > 4096) for model in models]
    assert large[0] == large[1]


def test_a_tied_head_and_its_embedding_are_the_same_bytes(tmp_path):
    path = build("llama_tied_wide_head", tmp_path / "model.tflite", "int4", (Signature(1, 16),))
    embedding, head = (
        line
        for line in describe_tflite(path).splitlines()
        if "model.embed_tokens.int4-block32@" in line
    )
    assert "EMBEDDING_LOOKUP(token_ids, model.embed_tokens.int4-block32@" in embedding
    assert "FULLY_CONNECTED(model.norm, model.embed_tokens.int4-block32@" in head


def test_arrays_beyond_two_gigabytes_are_read(tmp_path):
    """The file is sparse: a hole stands for the weights before the one that is used."""
    file = TfliteFile()
    hole = (1 << 31) + 12345
    file.add_array("hole", hole, partial(_skip, hole))
    graph = TfliteGraph(file, "decode")
    x = graph.input("x", (1, 3))
    constant = graph.constant("far", np.asarray([[1, 2, 3]], np.float32))
    graph.output("sum", graph.binary(Operator.ADD, x, constant, "sum"))
    graph.finish()
    path = tmp_path / "model.tflite"
    file.write(path)
    assert path.stat().st_size > 1 << 31
    result = Interpreter(str(path)).get_signature_runner("decode")(
        x=np.asarray([[10, 20, 30]], np.float32)
    )
    assert result["sum"].tolist() == [[11, 22, 33]]


def _skip(count: int, stream) -> None:
    stream.seek(count, os.SEEK_CUR)


def test_an_array_of_another_size_than_announced_is_an_error(tmp_path):
    file = TfliteFile()
    file.add_array("short", 5, lambda stream: stream.write(b"1234"))
    with pytest.raises(ValueError, match="'short' is 4 bytes, not 5"):
        file.write(tmp_path / "model.tflite")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("int8-block32", "embedding as int8-block32"),
        ("int4-block32-asymmetric", "accepted are fp32, fp16, int8, int4-channel and int4-b"),
        ("keep", "embedding as keep"),
        ("int4,activations=float32", "XNNPACK quantizes those of attention, mlp, head itself"),
    ],
)
def test_what_xnnpack_can_not_run_is_refused(recipe, message):
    with pytest.raises(TfliteFormatError, match=message):
        WeightStore(TfliteFile(), Recipe.parse(recipe))


@pytest.mark.parametrize("form", ["int4-block32", "int4-channel"])
def test_int4_is_refused_for_the_old_runtime(form):
    with pytest.raises(TfliteFormatError, match=rf"mlp as {form}, but tflite-runtime 2\.14"):
        WeightStore(TfliteFile(), Recipe.parse(f"int8,mlp={form}"), TFLITE_RUNTIME)


def test_rows_of_broken_blocks_are_refused():
    weights = WeightStore(TfliteFile(), Recipe.parse("int4"))
    weight = Weight("narrow.weight", "mlp", ArraySource(np.zeros((4, 40), np.float32)))
    with pytest.raises(TfliteFormatError, match="rows of 40 weights, which is no multiple"):
        weights.matrix([weight])


def test_rows_of_an_odd_number_of_4_bit_channels_are_refused():
    weights = WeightStore(TfliteFile(), Recipe.parse("int4-channel"))
    weight = Weight("odd.weight", "mlp", ArraySource(np.zeros((4, 33), np.float32)))
    with pytest.raises(TfliteFormatError, match="rows of 33 weights, two of which share a byte"):
        weights.matrix([weight])


@pytest.mark.parametrize(("form", "version"), [("int4-block32", 13), ("int4-channel", 12)])
def test_int4_is_multiplied_as_it_dequantizes(tmp_path, form, version):
    """Activations of one magnitude quantize without error, so that only the weights are left."""
    rows = np.random.default_rng(5).normal(0, 0.05, (24, 64)).astype(np.float32)
    rows[3] *= 1e-3  # below the smallest scale
    rows[4, :32] = 0
    file = TfliteFile()
    store = WeightStore(file, Recipe.parse(form))
    graph = TfliteGraph(file, "product")
    stored = store.matrix([Weight("w.weight", "mlp", ArraySource(rows))])
    x = graph.input("x", (1, 64))
    options = schema.FullyConnectedOptionsT(keepNumDims=True, asymmetricQuantizeInputs=True)
    product = graph.operator(
        Operator.FULLY_CONNECTED,
        [x, stored.edge(graph), None],
        (1, 24),
        "product",
        version=version,
        options=options,
        element_type=ElementType.FLOAT32,
    )
    graph.output("product", product)
    graph.finish()
    file.write(tmp_path / "model.tflite")
    expected = quantize_tensors(
        [ArraySource(rows)], WeightFormat.parse(form), scales_as=SCALES
    ).dequantize()
    runner = Interpreter(str(tmp_path / "model.tflite")).get_signature_runner("product")
    for column in (0, 1, 31, 32, 63):
        one = np.zeros((1, 64), np.float32)
        one[0, column] = 255.0  # the range 0..255 has a step of exactly 1
        actual = runner(x=one)["product"][0] / 255
        assert np.abs(actual - expected[:, column]).max() < 1e-7


def test_the_graphs_of_a_model_cover_its_context():
    for context in (40, 128, 256, 300, 512, 1000, 2048, 8192):
        chosen = signatures(context)
        names = [signature.name for signature in chosen]
        assert len(set(names)) == len(names)
        assert max(s.cache for s in chosen if s.tokens == 1) == context
        assert max(s.cache for s in chosen if s.tokens > 1) == context
        assert all(s.cache <= context for s in chosen)
    assert [s.name for s in signatures(2048)] == [
        "decode_256",
        "decode_512",
        "decode_1024",
        "decode_2048",
        "prefill_128",
        "prefill_128_512",
        "prefill_32_2048",
    ]
    more = signatures(1000, drafts=True)[len(signatures(1000)) :]
    assert [s.name for s in more] == ["verify_8_256", "verify_8_512", "verify_8_1000"]
    assert [s.name for s in signatures(512, TFLITE_RUNTIME)] == [
        "decode_256",
        "decode_512",
        "prefill_32",
        "prefill_32_512",
    ]

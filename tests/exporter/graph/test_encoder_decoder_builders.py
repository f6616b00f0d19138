"""Encoder-decoders as ONNX and TFLite graphs, against transformers and over quantized weights."""

import mmap

import numpy as np
import onnx
import pytest
from family_graphs import (
    CONTEXT,
    DECODER_GRAPHS,
    ENCODER_LENGTHS,
    RUNTIMES,
    build,
    open_encoder,
    open_encoder_decoder,
)
from tflite_partitions import outside_of_partitions
from tiny_families import ENCODER_DECODERS, TinyEncoderDecoder, on_the_left

from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.numpy_encoder import NumpyEncoderBuilder
from edgewise.exporter.graph.tflite_builder import TfliteBuilder
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_text import describe_tflite
from edgewise.exporter.graph.tflite_weights import SCALES, WeightStore
from edgewise.exporter.models.encoder_decoder import ENCODER_STATES
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.runtime.padded_rows import in_front

TOLERANCE = 1e-4
# Largest relative error of the results by int8 activations.
ACTIVATION_ERROR = 0.15
CROSS_PRODUCTS = {
    "t5": ("EncDecAttention.q", "EncDecAttention.k"),
    "bart": ("encoder_attn.q_proj", "encoder_attn.k_proj"),
}


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request):
    return request.param


@pytest.fixture(scope="module", params=ENCODER_DECODERS)
def opened(request, runtime, tmp_path_factory):
    """A case, its fp32 graphs with the sources read, what transformers computes, a folder."""
    model = TinyEncoderDecoder(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    build(runtime, model, folder)
    backend = open_encoder_decoder(runtime, model, folder)
    backend.read_source(0, model.ids, model.counts)
    yield model, backend, model.expected(), folder
    backend.close()


def steps(model, backend, sizes):
    """Feed the targets in chunks; give each chunk's last logits with its position."""
    at = 0
    for size in sizes:
        ids, past = model.targets[:, at : at + size], np.full(2, at, np.int32)
        at += size
        yield at - 1, backend.step(0, ids, past)


def test_encoder_states_equal_transformers(opened, runtime):
    model, _, expected, folder = opened
    results = open_encoder(runtime, folder).encode(model.ids, model.counts)
    real = model.mask > 0
    difference = results[ENCODER_STATES][real] - expected[ENCODER_STATES][real]
    assert np.abs(difference).max() < TOLERANCE


def test_single_steps_equal_transformers(opened):
    model, backend, expected, _ = opened
    for position, logits in steps(model, backend, [1] * model.targets.shape[1]):
        assert np.abs(logits - expected["logits"][:, position]).max() < TOLERANCE


@pytest.mark.parametrize("sizes", [(8, 1, 7, 1, 3), (5, 8, 1, 6), (1, 8, 8, 3), (20,)])
def test_chunks_equal_transformers(opened, sizes):
    model, backend, expected, _ = opened
    for position, logits in steps(model, backend, sizes):
        assert np.abs(logits - expected["logits"][:, position]).max() < TOLERANCE


def test_targets_of_different_lengths_equal_transformers(opened):
    model, backend, expected, _ = opened
    counts = np.asarray([8, 3], np.int32)
    logits = backend.step(0, model.targets[:, :8], np.zeros(2, np.int32), counts)
    for step in range(4):
        wanted = expected["logits"][[0, 1], counts + step - 1]
        assert np.abs(logits - wanted).max() < TOLERANCE
        ids = model.targets[[0, 1], counts + step][:, None]
        logits = backend.step(0, ids, counts + step)


def test_sources_padded_before_their_tokens_equal_transformers(opened):
    model, backend, expected, _ = opened
    rows = in_front(on_the_left(model.ids, model.mask, fill=7), on_the_left(model.mask, model.mask))
    assert len(set(rows.starts.tolist())) > 1
    backend.read_source(0, rows.token_ids, rows.counts)
    for position, logits in steps(model, backend, (5, 1, 1)):
        assert np.abs(logits - expected["logits"][:, position]).max() < TOLERANCE
    backend.read_source(0, model.ids, model.counts)


def test_another_source_in_one_slot_leaves_the_other_alone(opened):
    model, backend, expected, _ = opened
    past = np.zeros(1, np.int32)
    first = model.ids[:1, : model.counts[0]]
    backend.read_source(1, first, model.counts[:1])  # now both slots hold the first
    for slot in range(2):
        logits = backend.step(slot, model.targets[:1, :5], past)
        assert np.abs(logits - expected["logits"][:1, 4]).max() < TOLERANCE
    both = backend.step(0, model.targets[[0, 0], 5:6], np.full(2, 5, np.int32))
    assert np.abs(both - expected["logits"][0, 5]).max() < TOLERANCE
    backend.read_source(0, model.ids, model.counts)


def test_a_slot_without_a_source_is_an_error(opened, runtime):
    model, _, _, folder = opened
    backend = open_encoder_decoder(runtime, model, folder)
    with pytest.raises(ValueError, match="no source"):
        backend.step(1, model.targets[:1, :1], np.zeros(1, np.int32))


def alone(model, backend, tokens):
    """Return the logits after some tokens in the first slot, which is fed from its beginning."""
    return backend.step(0, np.asarray([tokens]), np.zeros(1, np.int32))[0].copy()


def test_copied_slots_go_on_as_those_that_were_fed(opened, runtime):
    """Any copies one after the other, as beams make them: their tokens and source go along."""
    model, fresh, _, folder = opened
    fresh.read_source(0, model.ids[:1, : model.counts[0]], model.counts[:1])
    backend = open_encoder_decoder(runtime, model, folder, slots=5)
    backend.read_source(0, model.ids[:1, : model.counts[0]], model.counts[:1])
    start = model.targets[0, :3].tolist()
    backend.step(0, np.asarray([start]), np.zeros(1, np.int32))
    histories = [list(start)] + [[]] * 4
    random = np.random.default_rng(7)
    copies = [
        [(0, 1), (0, 2), (0, 3), (0, 4)],
        [(4, 0)],
        [(2, 3), (2, 1)],
        [(3, 3), (0, 2), (1, 4)],
    ]
    for round_of_copies in copies:
        for source, target in round_of_copies:
            backend.copy_prefix(source, target, len(histories[source]))
            histories[target] = list(histories[source])
        tokens = random.integers(2, 200, (5, 1))
        past = np.asarray([len(history) for history in histories], np.int32)
        logits = backend.step(0, tokens, past).copy()
        for history, token, row in zip(histories, tokens[:, 0].tolist(), logits, strict=True):
            history.append(token)
            assert np.abs(row - alone(model, fresh, history)).max() < TOLERANCE
    fewer = backend.step(1, tokens[:3], np.asarray([len(histories[0])] * 3, np.int32))
    expected = [
        alone(model, fresh, [*histories[slot], int(tokens[slot - 1, 0])]) for slot in (1, 2, 3)
    ]
    assert np.abs(fewer - expected).max() < TOLERANCE
    fresh.read_source(0, model.ids, model.counts)


def test_a_released_slot_has_read_nothing_and_can_be_used_again(opened, runtime):
    model, _, expected, folder = opened
    backend = open_encoder_decoder(runtime, model, folder)
    backend.read_source(0, model.ids, model.counts)
    backend.step(0, model.targets[:, :5], np.zeros(2, np.int32))
    c = model.configuration
    head_bytes = CONTEXT * c.head_size * 4
    if runtime == "onnx":
        head_bytes = -(-head_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    assert backend.slot_bytes(CONTEXT) == 2 * c.decoder_layers * c.heads * head_bytes
    backend.release(0)
    with pytest.raises(ValueError, match="no source"):
        backend.step(0, model.targets[:1, :1], np.zeros(1, np.int32))
    logits = backend.step(1, model.targets[1:, 5:6], np.full(1, 5, np.int32))
    assert np.abs(logits - expected["logits"][1:, 5]).max() < TOLERANCE
    backend.copy_prefix(1, 0, 6)
    both = backend.step(0, model.targets[[1, 1], 6:7], np.full(2, 6, np.int32))
    assert np.abs(both - expected["logits"][1, 6]).max() < TOLERANCE


def test_the_decoder_computes_no_cross_keys(opened, runtime):
    """Products of the cross-attention's k and v stand in the encoder's graph alone."""
    model, _, _, folder = opened
    layers = model.configuration.decoder_layers
    query, key = CROSS_PRODUCTS[model.config["model_type"]]
    if runtime == "onnx":
        data = (folder / "decoder.onnx").read_bytes()
        assert query.encode() in data
        assert key.encode() not in data
        return
    lines = describe_tflite(folder / "model.tflite").splitlines()
    products = [line for line in lines if f"{key}+1" in line and "FULLY" in line]
    assert len(products) == layers * len(ENCODER_LENGTHS)


@pytest.mark.parametrize("recipe", ["fp32", "fp16", "int8", "int4-block32"])
def test_both_onnx_graphs_share_the_embedding(tmp_path, recipe):
    model = TinyEncoderDecoder("t5_v1_0")
    build("onnx", model, tmp_path, recipe)
    places = []
    for name in ("encoder", "decoder"):
        graph = onnx.load(tmp_path / f"{name}.onnx", load_external_data=False).graph
        places.append(
            {
                tensor.name: [(item.key, item.value) for item in tensor.external_data]
                for tensor in graph.initializer
                if tensor.name.startswith("shared") and tensor.external_data
            }
        )
    common = places[0].keys() & places[1].keys()
    assert common  # the rows that both look up
    assert all(places[0][name] == places[1][name] for name in common)


def reference(model):
    encoder = NumpyEncoderBuilder(model.ids, model.mask)
    model.encode(encoder)
    decoder = NumpyBuilder(model.targets, encoder=encoder.states)
    model.decode(decoder)
    return encoder.outputs["encoder_hidden_states"], decoder.logits


RECIPES = {
    "fp16": TOLERANCE,
    "fp32,embedding=int8": TOLERANCE,
    "int8": ACTIVATION_ERROR,
    "int4-block32": ACTIVATION_ERROR,
}


@pytest.mark.parametrize(
    ("name", "recipe", "tolerance"),
    [
        (name, recipe, tolerance)
        for name in ENCODER_DECODERS
        for recipe, tolerance in RECIPES.items()
        # As in the smallest Flan-T5, heads are narrower than states: no whole number of blocks.
        if (name, recipe) != ("t5_v1_1", "int4-block32")
    ],
)
def test_quantized_graphs_stay_near_the_stored_weights(tmp_path, runtime, name, recipe, tolerance):
    model = TinyEncoderDecoder(name)
    build(runtime, model, tmp_path, recipe)
    encoded = open_encoder(runtime, tmp_path).encode(model.ids, model.counts)
    backend = open_encoder_decoder(runtime, model, tmp_path)
    backend.read_source(0, model.ids, model.counts)
    scales = SCALES if runtime == "tflite" else "float32"
    states, logits = reference(TinyEncoderDecoder(name, recipe, scales))
    real = model.mask > 0
    pairs = [(encoded[ENCODER_STATES][real], states[real])]
    for position, actual in steps(model, backend, (8, 1, 1, 7)):
        pairs.append((actual, logits[:, position]))
    errors = [np.linalg.norm(actual - wanted) / np.linalg.norm(wanted) for actual, wanted in pairs]
    print(f"{name} {runtime} {recipe}: states {errors[0]:.2g}, logits {max(errors[1:]):.2g}")
    assert max(errors) < tolerance


LARGEST_HALF = float(np.finfo(np.float16).max)


class Watched(NumpyEncoderBuilder):
    """The reference, which notes the largest number that joins the states."""

    largest = 0.0

    def add_rms_norm(self, residual, x, weight, epsilon):
        self.largest = max(self.largest, float(np.abs(x).max()))
        return super().add_rms_norm(residual, x, weight, epsilon)


def test_half_weights_whose_products_exceed_half_numbers_stay_finite(tmp_path, runtime):
    model, stored = TinyEncoderDecoder("t5_v1_1"), TinyEncoderDecoder("t5_v1_1", "fp16")
    for name in model.arrays:
        if name.endswith(".wo.weight"):
            model.arrays[name] *= np.float32(3e4)
            stored.arrays[name] *= np.float32(3e4)
            assert np.abs(model.arrays[name]).max() < LARGEST_HALF
    build(runtime, model, tmp_path, "fp16")
    encoded = open_encoder(runtime, tmp_path).encode(model.ids, model.counts)[ENCODER_STATES]
    reference = Watched(model.ids, model.mask)
    stored.encode(reference)
    assert reference.largest > 4 * LARGEST_HALF
    expected = reference.outputs[ENCODER_STATES]
    real = model.mask > 0
    assert np.isfinite(encoded[real]).all()
    assert np.abs(encoded - expected)[real].max() < TOLERANCE


@pytest.mark.parametrize("graph", DECODER_GRAPHS, ids=lambda graph: graph.name)
@pytest.mark.parametrize("recipe", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["t5_v1_1", "bart_scaled"])
def test_xnnpack_runs_all_but_indices_in_one_partition(tmp_path, name, recipe, graph):
    file = TfliteFile()
    weights = WeightStore(file, Recipe.parse(recipe))
    builder = TfliteBuilder(file, weights, graph, CONTEXT, encoder_tokens=ENCODER_LENGTHS[0])
    TinyEncoderDecoder(name).decode(builder)
    builder.finish()
    file.write(tmp_path / "model.tflite")
    partitions, outside = outside_of_partitions(tmp_path / "model.tflite")
    assert partitions == 1
    # The encoder's mask, the past's, and which token is the last; positions or their distances.
    expected = ["CAST", "EMBEDDING_LOOKUP"] + ["CAST"] * (graph.tokens > 1)
    expected += ["EMBEDDING_LOOKUP"] * (recipe == "int8")  # the scales of the vocabulary's rows
    if name == "bart_scaled":
        expected += ["EMBEDDING_LOOKUP"] + ["CAST"] * (graph.cache > 0)
    elif graph.cache:
        expected += ["CAST", "EMBEDDING_LOOKUP", "MAXIMUM", "MINIMUM", "RESHAPE", "RESHAPE", "SUB"]
    assert outside == sorted(expected)

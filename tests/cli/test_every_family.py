"""Export and run of a tiny checkpoint of every model type, as a person does it, by both engines."""

from __future__ import annotations

import json

import pytest
from tiny_checkpoint import load_case, write_checkpoint
from tiny_families import TinyEncoder, TinyEncoderDecoder
from tiny_family_folders import write_family_folder
from tiny_images import IMAGE_CASES
from tiny_vision_language import TinyVisionLanguage

from edgewise.device import Agent, EmbeddedBroker
from edgewise.runtime import load
from edgewise.runtime.backends.fake_bundle import byte_tokenizer

DECODERS = (
    "gemma3_windows", "gpt2_tied", "llama_tinyllama_ratio", "phi3_window", "phi_half_rotary",
    "qwen2_tied", "qwen3_tied",
)  # fmt: skip
SEQUENCES = ("bart", "t5_v1_1")
GUESSERS = {"bert": "[MASK]", "distilbert": "[MASK]", "roberta": "<mask>"}
RUNTIMES = ("onnx", "tflite")


@pytest.fixture
def export(edgewise, tmp_path):
    """Export a folder in fp32 and return the bundle."""

    def run(folder, runtime):
        output = tmp_path / f"{folder.name}-{runtime}"
        result = edgewise(
            *("export", folder, "--profile", "raspberry_pi_5", "--recipe", "fp32"),
            *("--format", runtime, "-o", output),
        )
        assert result.code == 0, result.err
        return output

    return run


def answer(edgewise, *arguments):
    result = edgewise("run", *arguments, "--json", "--threads", "1")
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_writes(edgewise, export, tmp_path, name, runtime):
    bundle = export(write_checkpoint(load_case(name), tmp_path / name), runtime)
    value = answer(edgewise, bundle, "w3 w4", "--max-tokens", "4", "--temperature", "0")
    assert 1 <= len(value["token_ids"]) <= 4
    assert f"runtime    {runtime}\n" in edgewise("inspect", bundle, "--verify-hashes").out


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", SEQUENCES)
def test_an_encoder_decoder_writes_and_searches(edgewise, export, tmp_path, name, runtime):
    bundle = export(write_family_folder(TinyEncoderDecoder(name), tmp_path / name), runtime)
    greedy = answer(edgewise, bundle, "close the vents", "--max-tokens", "5")
    assert 1 <= len(greedy["token_ids"]) <= 5
    beams = ("--beams", "3", "--max-tokens", "5")
    assert 1 <= len(answer(edgewise, bundle, "close the vents", *beams)["token_ids"]) <= 5
    assert "family        encoder-decoder\n" in edgewise("inspect", bundle).out


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", GUESSERS)
def test_an_encoder_guesses_embeds_and_classifies(edgewise, export, tmp_path, name, runtime):
    def bundle_of(head):
        case = f"{name}_{head}"
        return export(write_family_folder(TinyEncoder(case), tmp_path / case), runtime)

    guesser = bundle_of("masked_language_model")
    text = f"close {GUESSERS[name]} vents"
    (words,) = answer(edgewise, guesser, text, "--top", "3")["masks"]
    assert len(words) == 3
    assert f"close [{words[0]['text'].strip()}] vents" in edgewise("run", guesser, text).out
    pair = ("no", "--text-pair", "no", "--task", "embed")
    assert answer(edgewise, guesser, *pair)["similarity"] == pytest.approx(1.0, abs=1e-4)
    labels = answer(edgewise, bundle_of("classification"), "no", "--top", "99")["labels"]
    assert sum(label["probability"] for label in labels) == pytest.approx(1.0)
    assert "spans" in answer(edgewise, bundle_of("token_classification"), "it is cold")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_verifier_scores(edgewise, export, tmp_path, runtime):
    bundle = export(write_checkpoint(load_case("phi_score"), tmp_path / "phi_score"), runtime)
    assert len(answer(edgewise, bundle, "w3 w4")["scores"]) >= 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_sees_writes_about_an_image(edgewise, export, tmp_path, runtime):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "llava_phi"
    TinyVisionLanguage("llava_phi").write(folder)
    (folder / "tokenizer.json").write_text(byte_tokenizer(["<|endoftext|>"]).to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    image.fromarray(IMAGE_CASES["square"].pixels()).save(tmp_path / "square.png")
    bundle = export(folder, runtime)
    seen = ("Describe.", "--image", tmp_path / "square.png", "--max-tokens", "3")
    here = answer(edgewise, bundle, *seen)
    with (
        load(bundle, threads=1) as model,
        EmbeddedBroker() as broker,
        Agent(model, broker=broker.url, device="eye", protocol=broker.protocol),
    ):
        asked = ("--broker", broker.url, "--protocol", broker.protocol, "--device", "eye")
        there = json.loads(edgewise("request", *asked, *seen, "--json").out)
    assert there["text"] == here["text"]
    with_image = here["statistics"]["prompt_tokens"]
    assert there["usage"]["prompt_tokens"] == with_image
    without = answer(edgewise, bundle, *seen[:1], *seen[3:])["statistics"]["prompt_tokens"]
    assert with_image == without + 9 + len("\n")

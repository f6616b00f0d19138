"""TFLite bundles that were exported with drafts: the same answers, in fewer steps."""

import pytest
from tiny_families import TinyEncoder
from tiny_family_folders import write_family_folder

from edgewise.exporter import export
from edgewise.exporter.plan import PlanError
from edgewise.runtime import GenerationOptions, load
from edgewise.runtime.backends.litert import LitertBackend
from edgewise.runtime.draft_length import LENGTHS

PROMPT = "one two three, one two three, one two"


def exported(folder, output, *, drafts, profile="android_arm64"):
    return export(
        str(folder), profile=profile, output=output, recipe="fp32", drafts=drafts, force=True
    ).bundle.path


@pytest.fixture
def counted(monkeypatch):
    """Count the steps that check drafts, and the tokens that they are fed."""
    fed = []
    verify = LitertBackend.verify

    def counting(self, slot, token_ids, past_length):
        fed.append(len(token_ids))
        return verify(self, slot, token_ids, past_length)

    monkeypatch.setattr(LitertBackend, "verify", counting)
    return fed


@pytest.mark.parametrize("name", ["llama_tied_wide_head", "qwen2_untied"])
@pytest.mark.parametrize("how", ["lookup", "model"])
def test_answers_are_the_same_with_drafts(tiny_folder, tmp_path, counted, name, how):
    plain = exported(tiny_folder(name), tmp_path / "plain", drafts=False)
    drafting = exported(tiny_folder(name), tmp_path / "drafting", drafts=True)
    options = [
        GenerationOptions(max_tokens=60, raw=True, temperature=temperature, seed=seed)
        for temperature, seed in ((0, 0), (0.3, 1), (1.0, 2), (1.0, 3))
    ]
    with load(plain, threads=1) as model:
        expected = [model.generate(PROMPT, one).token_ids for one in options]
    assert not counted
    more = {"prompt_lookup": True} if how == "lookup" else {"draft_model": plain}
    with load(drafting, threads=1, **more) as model:
        for one, tokens in zip(options, expected, strict=True):
            assert model.generate(PROMPT, one).token_ids == tokens
    assert counted
    assert max(counted) > 1


def test_a_bundle_without_such_graphs_answers_without_drafts(tiny_folder, tmp_path, counted):
    plain = exported(tiny_folder("qwen2_untied"), tmp_path / "plain", drafts=False)
    options = GenerationOptions(max_tokens=20, raw=True)
    with load(plain, threads=1) as model:
        expected = model.generate(PROMPT, options).token_ids
    with load(plain, threads=1, prompt_lookup=True) as model:
        assert model.generate(PROMPT, options).token_ids == expected
    assert not counted


def test_boards_of_32_bits_check_drafts_too(tiny_folder, tmp_path, counted):
    bundle = exported(
        tiny_folder("qwen2_untied"), tmp_path, drafts=True, profile="raspberry_pi_zero_2w"
    )
    with load(bundle, threads=1, draft_model=bundle) as model:
        model.generate(PROMPT, GenerationOptions(max_tokens=30, raw=True))
    assert max(counted) == max(LENGTHS) + 1


def test_what_can_not_check_drafts_is_refused(tiny_folder, tmp_path):
    with pytest.raises(
        PlanError, match=r"decoder for litertlm; accepted: .*--format onnx or tflite"
    ):
        export(
            str(tiny_folder("qwen2_untied")),
            profile="x86_64",
            runtime="litertlm",
            output=tmp_path / "bundle",
            drafts=True,
        )
    encoder = write_family_folder(TinyEncoder("bert_token_classification"), tmp_path / "bert")
    with pytest.raises(PlanError, match="of the kind encoder for onnx; accepted"):
        export(str(encoder), profile="x86_64", output=tmp_path / "bundle", drafts=True)
    assert not (tmp_path / "bundle").exists()

"""What checkpoints are traced for."""

import pytest

from edgewise.exporter.traced.tasks import TaskError, family_of_task, task_of


@pytest.mark.parametrize(
    ("architecture", "task", "family"),
    [
        ("GPTNeoXForCausalLM", "text-generation-with-past", "decoder"),
        ("GPT2LMHeadModel", "text-generation-with-past", "decoder"),
        ("AlbertForMaskedLM", "fill-mask", "encoder"),
        ("ElectraForSequenceClassification", "text-classification", "encoder"),
        ("DebertaV2ForTokenClassification", "token-classification", "encoder"),
        ("MPNetModel", "feature-extraction", "encoder"),
    ],
)
def test_an_architecture_names_its_task(architecture, task, family):
    found = task_of({"model_type": "novel", "architectures": [architecture]})
    assert (found, family_of_task(found)) == (task, family)


def test_encoder_decoders_are_traced_with_their_cache():
    for architecture in ("MarianMTModel", "PegasusForConditionalGeneration"):
        found = task_of({"is_encoder_decoder": True, "architectures": [architecture]})
        assert found == "text2text-generation-with-past"
        assert family_of_task(found) == "encoder_decoder"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"is_encoder_decoder": True, "architectures": ["BartForSequenceClassification"]},
            r"BartForSequenceClassification; .*ends as \.\.\.ForConditionalGeneration, \.\.\.MT",
        ),
        ({"architectures": ["WhisperForAudioClassification"]}, "WhisperForAudioClassification"),
        ({"architectures": []}, "the architecture none; .*ForCausalLM"),
        ({}, "the architecture none"),
    ],
)
def test_others_are_refused_with_what_is_accepted(config, words):
    with pytest.raises(TaskError, match=words):
        task_of({"model_type": "novel", **config})

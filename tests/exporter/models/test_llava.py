"""LLaVA as transformers has it: its defaults, what it reads, and what it can not be."""

import json

import pytest
from tiny_checkpoint import DATA
from tiny_vision_language import TinyVisionLanguage

from edgewise.exporter.checkpoint.llava_names import with_parts_named
from edgewise.exporter.models import PASSES, family_of, find_model
from edgewise.exporter.models.decoder import ConfigurationError

DEFINITION = find_model("llava")
TRUE = json.loads((DATA / "configs" / "llava-1.5-7b.json").read_text())
CASES = ("llava", "llava_phi_text")
# LLaVA 1.5 as transformers counts it, and of it what no layer that is computed reads.
PARAMETERS = 7_063_427_072
UNREAD = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024 + 2 * 1024


def changed(part=None, **changes):
    if part is None:
        return TRUE | changes
    return TRUE | {part: TRUE[part] | changes}


def test_the_definition_has_all_passes_of_its_family():
    assert family_of("llava") == "vision_language"
    assert all(callable(getattr(DEFINITION, name)) for name in PASSES["vision_language"])


def test_what_the_parts_leave_out_is_their_default():
    c = DEFINITION.configuration(TRUE)
    assert (c.vision.tokens, c.vision.layers, c.vision.activation) == (576, 23, "quick_gelu")
    assert (c.text.layers, c.text.hidden_size, c.context_length) == (32, 4096, 4096)
    assert not c.text.tied_head
    counted = sum(tensor.parameters for tensor in DEFINITION.tensors(c).values())
    assert counted == PARAMETERS - UNREAD
    bare = DEFINITION.configuration({"model_type": "llava", "text_config": TRUE["text_config"]})
    assert bare == c


@pytest.mark.parametrize("name", CASES)
def test_every_listed_tensor_is_read_and_no_other(name):
    model = TinyVisionLanguage(name)
    assert model.read_by_all_graphs() == set(model.specifications)
    assert all(DEFINITION.ignored(name) for name in model.unread_arrays())
    assert not DEFINITION.ignored("vision_tower.vision_model.head.weight")


def test_the_full_strategy_keeps_the_row_before_the_squares():
    for strategy, tokens in (("default", 576), ("full", 577)):
        c = DEFINITION.configuration(changed(vision_feature_select_strategy=strategy))
        assert c.vision.tokens == tokens
        table = DEFINITION.tensors(c)
        positions = "vision_tower.vision_model.embeddings.position_embedding.weight"
        assert table[positions].shape == (577, 1024)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("language_model.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.vision_tower.vision_model.x.bias", "vision_tower.vision_model.x.bias"),
        ("model.vision_tower.x.bias", "vision_tower.vision_model.x.bias"),
        ("vision_tower.vision_model.x.bias", "vision_tower.vision_model.x.bias"),
        ("vision_tower.x.bias", "vision_tower.vision_model.x.bias"),
        (
            "model.multi_modal_projector.linear_1.weight",
            "multi_modal_projector.linear_1.weight",
        ),
        ("multi_modal_projector.linear_1.weight", "multi_modal_projector.linear_1.weight"),
        ("image_newline", "image_newline"),
    ],
)
def test_each_version_s_names_are_read(written, read):
    assert with_parts_named({written: 7}) == {read: 7}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed("text_config", model_type="mistral"), "type 'mistral'; known are llama, phi"),
        (changed("vision_config", model_type="siglip_vision_model"), "'siglip_vision_model'"),
        (changed(projector_hidden_act="relu"), "projector_hidden_act is 'relu'"),
        (changed(multimodal_projector_bias=False), "multimodal_projector_bias is false"),
        (changed(vision_feature_select_strategy="cls"), "'cls'; known are default, full"),
        (changed(vision_feature_layer=[-2, -5]), r"\[-2, -5\]; known is one layer"),
        (changed(vision_feature_layer="last"), "'last'; known is one layer"),
        (changed(vision_feature_layer=25), "states 25 were asked for; it has 24 layers"),
    ],
)
def test_what_it_can_not_be_is_refused(config, message):
    with pytest.raises(ConfigurationError, match=message):
        DEFINITION.configuration(config)

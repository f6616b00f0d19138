"""LLaVA-Phi's two layouts, its true size, and what it can not be."""

import json

import pytest
from tiny_checkpoint import DATA
from tiny_vision_language import TinyVisionLanguage

from edgewise.exporter.models import PASSES, family_of, find_model
from edgewise.exporter.models.clip_vision import read_configuration, vision_tensors
from edgewise.exporter.models.decoder import ConfigurationError

DEFINITION = find_model("llava_phi")
TRUE = json.loads((DATA / "configs" / "llava-phi.json").read_text())
TOWER = TRUE["vision_config"]["vision_tower"]
# CLIP ViT-L/14-336's vision model as transformers counts it, its last norm among them.
CLIP_PARAMETERS = 303_507_456
LAYER = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024


def layout_of_llava(**changes):
    """Return the same model as LLaVA's own code writes it."""
    text = {name: value for name, value in TRUE.items() if name != "vision_config"}
    return text | {
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_hidden_size": 1024,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "pad",
        **changes,
    }


def changed(part, **changes):
    return TRUE | {
        "vision_config": TRUE["vision_config"] | {part: TRUE["vision_config"][part] | changes}
    }


def parameters(table):
    return sum(tensor.parameters for tensor in table.values())


def test_the_definition_has_all_passes_of_its_family():
    assert family_of("llava_phi") == "vision_language"
    assert all(callable(getattr(DEFINITION, name)) for name in PASSES["vision_language"])


def test_the_true_configuration_is_what_was_published():
    c = DEFINITION.configuration(TRUE)
    assert (c.vision.tokens, c.vision.layers, c.vision.hidden_size) == (576, 23, 1024)
    assert (c.text.layers, c.text.hidden_size, c.context_length) == (32, 2560, 2048)
    assert c.context_length - c.vision.tokens == 1472
    assert c.vision.activation == "quick_gelu"
    assert c.projector == ("model.mm_projector.0", "model.mm_projector.2")


def test_the_tower_is_clip_s_but_for_what_it_does_not_compute():
    whole = vision_tensors(read_configuration(TOWER, -1), "")
    last_norm = 2 * 1024
    assert parameters(whole) == CLIP_PARAMETERS - last_norm
    read = vision_tensors(read_configuration(TOWER, -2), "")
    assert parameters(read) == CLIP_PARAMETERS - last_norm - LAYER
    for layer in (23, -2):
        assert read_configuration(TOWER, layer) == read_configuration(TOWER, -2)


def test_both_layouts_are_one_model():
    ours, theirs = (DEFINITION.configuration(config) for config in (TRUE, layout_of_llava()))
    assert (ours.vision, ours.text, ours.projector) == (
        theirs.vision,
        theirs.text,
        theirs.projector,
    )
    prefixes = (ours.tower, theirs.tower)
    assert prefixes == (
        "model.vision_tower.vision_model.",
        "model.vision_tower.vision_tower.vision_model.",
    )
    tables = [
        {
            name.replace(prefix, "tower."): tensor.shape
            for name, tensor in DEFINITION.tensors(configuration).items()
        }
        for prefix, configuration in zip(prefixes, (ours, theirs), strict=True)
    ]
    assert tables[0] == tables[1]


def test_llava_s_layout_may_bring_the_tower_s_own_configuration():
    config = layout_of_llava(mm_vision_tower="some/tower", vision_config=TOWER)
    assert DEFINITION.configuration(config).vision == DEFINITION.configuration(TRUE).vision


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("linear", ("model.mm_projector",)),
        ("mlp1x_gelu", ("model.mm_projector.0",)),
        ("mlp3x_gelu", tuple(f"model.mm_projector.{index}" for index in (0, 2, 4))),
    ],
)
def test_projectors_of_other_depths(kind, names):
    c = DEFINITION.configuration(changed("mm_projector", mm_projector_type=kind))
    assert c.projector == names
    table = DEFINITION.tensors(c)
    widths = [table[f"{name}.weight"].shape for name in names]
    assert widths == [(2560, 1024), *[(2560, 2560)] * (len(names) - 1)]


@pytest.mark.parametrize("prefix", ["model.vision_tower.", "model.vision_tower.vision_tower."])
@pytest.mark.parametrize(
    ("name", "harmless"),
    [
        ("vision_model.encoder.layers.23.mlp.fc1.weight", True),
        ("vision_model.post_layernorm.bias", True),
        ("vision_model.embeddings.position_ids", True),
        ("vision_model.embeddings.other", False),
        ("vision_model.head.weight", False),
    ],
)
def test_only_what_a_tower_leaves_out_may_be_there_unread(prefix, name, harmless):
    assert DEFINITION.ignored(prefix + name) is harmless


def test_the_decoder_s_own_leftovers_may_be_there():
    assert DEFINITION.ignored("model.layers.0.self_attn.rotary_emb.inv_freq")
    assert not DEFINITION.ignored("model.layers.0.self_attn.other")


def test_patches_are_filled_up_so_that_blocks_divide_them():
    vision = DEFINITION.configuration(TRUE).vision
    assert (3 * vision.patch_size**2, vision.patch_features) == (588, 640)


def test_every_listed_tensor_is_read_and_no_other():
    model = TinyVisionLanguage("llava_phi")
    assert model.read_by_all_graphs() == set(model.specifications)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (changed("vision_tower", num_attention_heads=15), "15 heads"),
        (changed("vision_tower", image_size=335), "335 pixels"),
        (changed("vision_tower", num_channels=1), "1 colours"),
        (changed("vision_tower", hidden_act="mish"), "mish"),
        (changed("vision_tower", mm_vision_select_layer=-25), "-25"),
        (changed("vision_tower", mm_vision_select_layer=25), "24 layers"),
        (changed("vision_tower", mm_vision_select_feature="cls_patch"), "cls_patch"),
        (changed("mm_projector", mm_projector_type="ldpnet"), "ldpnet"),
        (TRUE | {"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        (TRUE | {"image_aspect_ratio": "anyres"}, "anyres"),
        (layout_of_llava(mm_vision_tower="google/siglip"), "google/siglip"),
        (layout_of_llava(mm_vision_tower=None), "no vision_config"),
    ],
)
def test_what_it_can_not_be_is_refused(config, match):
    with pytest.raises(ConfigurationError, match=match):
        DEFINITION.configuration(config)

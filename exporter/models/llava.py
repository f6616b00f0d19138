"""``model_type: llava``: LLaVA 1.5 as transformers has it, a CLIP tower before a Llama or a Phi.

The parts keep configurations of their own, which leave out what is a part's default. Images are cut
to a square or padded to one, as the checkpoint's image processor says. Order of this file:
configuration, tensors, forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from edgewise.exporter.graph.protocol import GraphBuilder, Value
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models import llama, llava_phi, phi
from edgewise.exporter.models.clip_vision import (
    DEFAULT_LAYER,
    is_unread,
    read_configuration,
    vision_tensors,
)
from edgewise.exporter.models.decoder import ConfigurationError, TensorSpecification
from edgewise.exporter.models.vision_language import VisionLanguageConfiguration

FAMILY = "vision_language"
TOWER = "vision_tower.vision_model."
PROJECTOR = ("multi_modal_projector.linear_1", "multi_modal_projector.linear_2")
TEXTS = {"llama": llama, "phi": phi}
# What transformers takes where a configuration does not say.
TEXT_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "phi": {
        "vocab_size": 51200,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
}
CLIP = "clip_vision_model"
DEFAULT_TOWER = llava_phi.VIT_LARGE | {"image_size": 336}
KEEPS_FIRST = {"default": False, "full": True}  # by vision_feature_select_strategy

see = llava_phi.see
embed = llava_phi.embed


def configuration(config: Mapping[str, Any]) -> VisionLanguageConfiguration:
    """Read a ``LlavaConfig``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    text = dict(config.get("text_config") or {})
    kind = str(text.get("model_type", "llama"))
    if kind not in TEXTS:
        raise ConfigurationError(
            f"the text_config of this LLaVA is of type {kind!r}; known are {', '.join(TEXTS)}"
        )
    tower = config.get("vision_config") or DEFAULT_TOWER
    if (tower_kind := tower.get("model_type", CLIP)) != CLIP:
        raise ConfigurationError(
            f"the vision_config of this LLaVA is of type {tower_kind!r}; known is {CLIP!r}"
        )
    if (activation := config.get("projector_hidden_act", "gelu")) != "gelu":
        raise ConfigurationError(f"projector_hidden_act is {activation!r}; known is 'gelu'")
    if not config.get("multimodal_projector_bias", True):
        raise ConfigurationError(
            "multimodal_projector_bias is false; the projectors that are known carry biases"
        )
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy not in KEEPS_FIRST:
        raise ConfigurationError(
            f"vision_feature_select_strategy is {strategy!r}; known are {', '.join(KEEPS_FIRST)}"
        )
    tied = bool(config.get("tie_word_embeddings", False))
    settled = {**TEXT_DEFAULTS[kind], **text, "tie_word_embeddings": tied}
    settled.pop("architectures", None)
    decoder = replace(TEXTS[kind].configuration(settled), head_bias=False)
    vision = read_configuration(tower, _state_layer(config))
    return VisionLanguageConfiguration(
        vision=replace(vision, keeps_first=KEEPS_FIRST[strategy]),
        text=decoder,
        tower=TOWER,
        projector=PROJECTOR,
        text_type=kind,
        cuts_images=True,
    )


def tensors(configuration: VisionLanguageConfiguration) -> dict[str, TensorSpecification]:
    """List every tensor that is read, with its shape and role."""
    c = configuration
    table: dict[str, TensorSpecification] = TEXTS[c.text_type].tensors(c.text)
    table |= vision_tensors(c.vision, c.tower) | llava_phi.projector_tensors(c)
    return table


def ignored(name: str) -> bool:
    """Tell whether a checkpoint may hold this tensor although nothing reads it."""
    if name.startswith(TOWER):
        return is_unread(name.removeprefix(TOWER))
    return llama.ignored(name) or phi.ignored(name)


def forward(
    builder: GraphBuilder[Value],
    configuration: VisionLanguageConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe one pass of the decoder: vectors to logits, the cache extended."""
    TEXTS[configuration.text_type].forward(builder, configuration.text, weight)


def _state_layer(config: Mapping[str, Any]) -> int:
    """Return the one layer whose states are projected."""
    layer = config.get("vision_feature_layer", DEFAULT_LAYER)
    if isinstance(layer, list) and len(layer) == 1:
        (layer,) = layer
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise ConfigurationError(
            f"vision_feature_layer is {layer!r}; known is one layer, by its number"
        )
    return layer

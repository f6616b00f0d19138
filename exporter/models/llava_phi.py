"""``model_type: llava_phi``: LLaVA-Phi, a CLIP tower before Phi-2 (arXiv 2401.02330).

The tower is trained with the rest, so it is read from the checkpoint. Two layouts exist: that of
LLaVA-Phi's authors, whose ``vision_config`` holds the tower's and the projector's constants, and
that of LLaVA, which names a published tower in ``mm_vision_tower``. Order of this file:
configuration, tensors, forward passes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from edgewise.exporter.graph.protocol import GraphBuilder, ImageBuilder, LookupBuilder, Value
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models import phi
from edgewise.exporter.models.clip_vision import (
    DEFAULT_LAYER,
    is_unread,
    read_configuration,
    vision_states,
    vision_tensors,
)
from edgewise.exporter.models.decoder import ConfigurationError, TensorSpecification
from edgewise.exporter.models.vision_language import (
    EMBEDDINGS,
    IMAGE_FEATURES,
    VisionLanguageConfiguration,
)

FAMILY = "vision_language"
TOWER = "model.vision_tower.vision_model."
TOWER_OF_LLAVA = "model.vision_tower.vision_tower.vision_model."
PROJECTOR = "model.mm_projector"
VIT_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
# Towers that LLaVA's layout names and says no more of.
PUBLISHED_TOWERS: Mapping[str, Mapping[str, int]] = {
    "openai/clip-vit-large-patch14-336": VIT_LARGE | {"image_size": 336},
    "openai/clip-vit-large-patch14": VIT_LARGE | {"image_size": 224},
}


def configuration(config: Mapping[str, Any]) -> VisionLanguageConfiguration:
    """Read a ``LlavaPhiConfig``, or a ``LlavaConfig`` on a Phi.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    parts = config.get("vision_config") or {}
    nested = "vision_tower" in parts
    tower = parts["vision_tower"] if nested else parts or _published_tower(config)
    projector = {**config, **(parts.get("mm_projector") or {})}
    if config.get("mm_use_im_start_end"):
        raise ConfigurationError(
            "mm_use_im_start_end is true; images are put into prompts without tokens around them"
        )
    shape = config.get("image_aspect_ratio", "pad")
    if shape != "pad":
        raise ConfigurationError(
            f"image_aspect_ratio is {shape!r}; known is 'pad', bars that make an image a square"
        )
    selected = {"mm_vision_select_layer": DEFAULT_LAYER, **config, **tower}
    feature = selected.get("mm_vision_select_feature", "patch")
    if feature != "patch":
        raise ConfigurationError(
            f"mm_vision_select_feature is {feature!r}; known is 'patch', the squares of an image"
        )
    return VisionLanguageConfiguration(
        vision=read_configuration(tower, int(selected["mm_vision_select_layer"])),
        text=phi.configuration(config),
        tower=TOWER if nested else TOWER_OF_LLAVA,
        projector=_projector(str(projector.get("mm_projector_type", "linear"))),
    )


def tensors(configuration: VisionLanguageConfiguration) -> dict[str, TensorSpecification]:
    """List every tensor that is read, with its shape and role."""
    c = configuration
    return phi.tensors(c.text) | vision_tensors(c.vision, c.tower) | projector_tensors(c)


def projector_tensors(c: VisionLanguageConfiguration) -> dict[str, TensorSpecification]:
    """List the tensors of the projector."""
    table = {}
    columns = c.vision.hidden_size
    for name in c.projector:
        table[f"{name}.weight"] = TensorSpecification((c.text.hidden_size, columns), "mlp")
        table[f"{name}.bias"] = TensorSpecification((c.text.hidden_size,), "bias")
        columns = c.text.hidden_size
    return table


def ignored(name: str) -> bool:
    """Tell whether a checkpoint may hold this tensor although nothing reads it."""
    if name.startswith((TOWER, TOWER_OF_LLAVA)):
        return is_unread(name.rpartition("vision_model.")[2])
    return phi.ignored(name)


def see(
    builder: ImageBuilder[Value],
    configuration: VisionLanguageConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe the pass from images to the vectors that stand for them in a prompt."""
    c = configuration
    features = vision_states(builder, c.vision, weight, c.tower)
    for index, name in enumerate(c.projector):
        if index:
            features = builder.activation(features, "gelu")
        features = builder.linear(features, [weight(f"{name}.weight")], [weight(f"{name}.bias")])
    builder.output(IMAGE_FEATURES, features)


def embed(
    builder: LookupBuilder[Value],
    configuration: VisionLanguageConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe the pass from token ids to their vectors."""
    del configuration
    builder.output(EMBEDDINGS, builder.embedding(builder.token_ids(), weight(phi.EMBEDDING)))


def forward(
    builder: GraphBuilder[Value],
    configuration: VisionLanguageConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe one pass of the decoder: vectors to logits, the cache extended."""
    phi.forward(builder, configuration.text, weight)


def _published_tower(config: Mapping[str, Any]) -> Mapping[str, int]:
    name = str(config.get("mm_vision_tower"))
    if name not in PUBLISHED_TOWERS:
        raise ConfigurationError(
            f"config.json has no vision_config, and its mm_vision_tower is {name!r}; known without "
            f"one are {', '.join(PUBLISHED_TOWERS)}. Add the tower's own configuration as "
            "vision_config"
        )
    return PUBLISHED_TOWERS[name]


def _projector(kind: str) -> tuple[str, ...]:
    """Name the matrices: "linear" is one, "mlp2x_gelu" two with a GELU between."""
    if kind == "linear":
        return (PROJECTOR,)
    found = re.fullmatch(r"mlp([1-9])x_gelu", kind)
    if found is None:
        raise ConfigurationError(
            f"mm_projector_type is {kind!r}; known are 'linear' and 'mlp2x_gelu', of any number"
        )
    # The GELUs are counted too.
    return tuple(f"{PROJECTOR}.{2 * index}" for index in range(int(found[1])))

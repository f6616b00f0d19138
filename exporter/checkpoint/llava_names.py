"""Names of the tensors of transformers' LLaVA, which differ with the version that wrote them.

| part | since transformers 4.52 | before | here |
|---|---|---|---|
| decoder | model.language_model.* | language_model.model.* | model.* |
| head | lm_head.* | language_model.lm_head.* | lm_head.* |
| tower | model.vision_tower.* | vision_tower.* | vision_tower.vision_model.* |
| projector | model.multi_modal_projector.* | multi_modal_projector.* | multi_modal_projector.* |

So a decoder has the names that it has alone, and its definition reads it as it is. Names of no part
stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

TOWER, PROJECTOR = "vision_tower.", "multi_modal_projector."
INNER = "vision_model."  # what some versions put between the tower and its parts
# What stands before the names of a part, as it is written and as it is read.
PREFIXES = {
    "model.language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    f"model.{TOWER}": TOWER,
    f"model.{PROJECTOR}": PROJECTOR,
}


def with_parts_named(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Return the tensors of a LLaVA under the names that are read here.

    Args:
        tensors: By the names of the file.
    """
    return {_read_as(name): tensor for name, tensor in tensors.items()}


def _read_as(name: str) -> str:
    for written, read in PREFIXES.items():
        if name.startswith(written):
            name = read + name.removeprefix(written)
            break
    if name.startswith(TOWER):
        return f"{TOWER}{INNER}{name.removeprefix(TOWER).removeprefix(INNER)}"
    return name

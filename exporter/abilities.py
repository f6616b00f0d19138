"""What a bundle can be asked for, by what its graph gives and its checkpoint says.

| family | what its graph gives | tasks |
|---|---|---|
| decoder, encoder-decoder, vision-language | logits of words | generate |
| decoder | numbers by label | score |
| encoder | states and their mean | embed |
| encoder | logits of words at each token, and perhaps states | fill-mask (and embed) |
| encoder | logits of labels, of a text or of each token | classify, token-classify |

The first task is what is done when none is asked for. What a T5 does with a text is told by words
before it; its config.json names them for each task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.checkpoint.sentence_pooling import Pooling
from edgewise.exporter.models.encoder import HIDDEN_STATES, MEAN, EncoderConfiguration
from edgewise.exporter.models.encoder_decoder import EncoderDecoderConfiguration
from edgewise.exporter.plan import ExportPlan
from edgewise.runtime.manifest import Task

TASK_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
PREFIX_MAX_LENGTH = 200  # characters


@dataclass(frozen=True)
class Abilities:
    """The manifest's words for what a bundle can be asked for."""

    tasks: tuple[Task, ...]
    labels: tuple[str, ...]
    pooling: Pooling | None


def abilities_of(plan: ExportPlan, checkpoint: Checkpoint, outputs: Sequence[str]) -> Abilities:
    """Say what an export can be asked for.

    Args:
        plan: What is exported.
        checkpoint: Which states make a text's vector, if it says so.
        outputs: Names of the results of its graph.
    """
    configuration = plan.configuration
    if not isinstance(configuration, EncoderConfiguration):
        return Abilities(("score",) if plan.labels else ("generate",), plan.labels, None)
    tasks: list[Task] = []
    match configuration.head:
        case "masked_language_model":
            tasks.append("fill-mask")
        case "classification":
            tasks.append("classify")
        case "token_classification":
            tasks.append("token-classify")
        case "features":
            pass
    gives_states = {HIDDEN_STATES, MEAN} <= set(outputs)
    if gives_states:
        tasks.append("embed")
    pooling = (checkpoint.pooling or "mean") if gives_states else None
    return Abilities(tuple(tasks), plan.labels, pooling)


def task_prefixes(plan: ExportPlan, checkpoint: Checkpoint) -> dict[str, str]:
    """Return what a text begins with by the name of its task, with hyphens for underscores.

    They stand in config.json as transformers' ``task_specific_params``, which holds options of
    generation too; an entry without a prefix is no task of its own.
    """
    described = checkpoint.config.get("task_specific_params")
    if not isinstance(plan.configuration, EncoderDecoderConfiguration):
        return {}
    if not isinstance(described, Mapping):
        return {}
    return {
        name.replace("_", "-"): entry["prefix"]
        for name, entry in described.items()
        if TASK_NAME.fullmatch(str(name))
        and name.replace("_", "-") not in get_args(Task)
        and isinstance(entry, Mapping)
        and isinstance(entry.get("prefix"), str)
        and 0 < len(entry["prefix"]) <= PREFIX_MAX_LENGTH
    }

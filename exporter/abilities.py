"""What a bundle can be asked for, by what its graph gives and its checkpoint says.

| family | what its graph gives | tasks |
|---|---|---|
| decoder, encoder-decoder, vision-language | logits of words | generate |
| decoder | numbers by label | score |
| encoder | states and their mean | embed |
| encoder | logits of words at each token, and perhaps states | fill-mask (and embed) |
| encoder | logits of labels, of a text or of each token | classify, token-classify |

The first task is what is done when none is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.checkpoint.sentence_pooling import Pooling
from edgewise.exporter.models.encoder import HIDDEN_STATES, MEAN, EncoderConfiguration
from edgewise.exporter.plan import ExportPlan
from edgewise.runtime.manifest import Task


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

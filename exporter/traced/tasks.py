"""What a checkpoint of an unknown type is for, by the architecture that its configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.models.encoder import Head
from edgewise.runtime.manifest import Family

TracingTask = Literal[
    "text-generation-with-past",
    "feature-extraction",
    "fill-mask",
    "text-classification",
    "token-classification",
    "text2text-generation-with-past",
]
"""Optimum's names."""

# How transformers' names for the heads of a model end.
TASKS: Mapping[str, TracingTask] = {
    "ForCausalLM": "text-generation-with-past",
    "LMHeadModel": "text-generation-with-past",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "Model": "feature-extraction",
}
# Those of encoder-decoders.
PAIR_ENDINGS = ("ForConditionalGeneration", "MTModel")
PAIR_TASK: TracingTask = "text2text-generation-with-past"
HEADS: Mapping[TracingTask, Head] = {
    "feature-extraction": "features",
    "fill-mask": "masked_language_model",
    "text-classification": "classification",
    "token-classification": "token_classification",
}


class TaskError(EdgewiseError):
    """A checkpoint is for something that is not traced here."""


def task_of(config: Mapping[str, Any]) -> TracingTask:
    """Return what a checkpoint is to be traced for.

    Raises:
        TaskError: It names no architecture whose use is known.
    """
    architectures = config.get("architectures") or ["none"]
    tasks = TASKS
    if config.get("is_encoder_decoder"):
        tasks = dict.fromkeys(PAIR_ENDINGS, PAIR_TASK)
    for ending, task in tasks.items():
        if str(architectures[0]).endswith(ending):
            return task
    accepted = ", ".join(f"...{ending}" for ending in tasks)
    raise TaskError(
        f"config.json names the architecture {architectures[0]}; through Optimum, those are "
        f"exported whose name ends as {accepted}"
    )


def family_of_task(task: TracingTask) -> Family:
    """Return the family of a graph that is traced for a task."""
    if task == PAIR_TASK:
        return "encoder_decoder"
    return "decoder" if task == "text-generation-with-past" else "encoder"

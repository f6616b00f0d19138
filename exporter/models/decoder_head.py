"""What stands on a decoder's last states: logits of words, or scores of labels.

A checkpoint says by its ``architectures`` which it is. A scoring head, as verifiers and reward
models have (``...ForTokenClassification`` and ``...ForSequenceClassification``), gives its numbers
at every position; those of the last token count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgewise.exporter.graph.protocol import GraphBuilder, Value
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models.decoder import (
    ConfigurationError,
    DecoderConfiguration,
    TensorSpecification,
)
from edgewise.exporter.models.encoder import labels_of

LANGUAGE_HEAD = "lm_head"
SCORING_HEAD = "score"
# How the names of classes end, and whether the scoring head of such a class carries a bias.
_SCORING_CLASSES = {"ForTokenClassification": True, "ForSequenceClassification": False}
_LANGUAGE_CLASSES = ("ForCausalLM", "LMHeadModel")


def head_constants(config: Mapping[str, Any], *, language_bias: bool = False) -> dict[str, Any]:
    """Read ``labels`` and ``head_bias`` of a decoder's configuration.

    Args:
        config: Of the checkpoint.
        language_bias: Whether this architecture's language head carries a bias.

    Raises:
        ConfigurationError: The checkpoint has a head of another kind.
    """
    name = (config.get("architectures") or [_LANGUAGE_CLASSES[0]])[0]
    for ending, bias in _SCORING_CLASSES.items():
        if name.endswith(ending):
            return {"labels": labels_of(config), "head_bias": bias}
    if not name.endswith(_LANGUAGE_CLASSES):
        accepted = ", ".join(f"...{ending}" for ending in (*_LANGUAGE_CLASSES, *_SCORING_CLASSES))
        raise ConfigurationError(
            f"this checkpoint is a {name}; decoders are exported as {accepted}"
        )
    return {"labels": (), "head_bias": language_bias}


def head_tensors(c: DecoderConfiguration) -> dict[str, TensorSpecification]:
    """List the tensors of the head; none of a tied one without a bias."""
    name = SCORING_HEAD if c.labels else LANGUAGE_HEAD
    table = {}
    if c.labels or not c.tied_head:
        table[f"{name}.weight"] = TensorSpecification((c.outputs, c.hidden_size), "head")
    if c.head_bias:
        table[f"{name}.bias"] = TensorSpecification((c.outputs,), "bias")
    return table


def output_head(
    builder: GraphBuilder[Value],
    c: DecoderConfiguration,
    weight: Callable[[str], Weight],
    normed: Value,
    embedding: str,
) -> None:
    """Describe the head on normed states.

    Args:
        builder: What the operations are called on.
        c: The model's constants.
        weight: Gives the checkpoint's weights.
        normed: The last states, [B, 1 or T, D].
        embedding: Name of the embedding, which a tied head reads.
    """
    name = SCORING_HEAD if c.labels else LANGUAGE_HEAD
    if c.labels or not c.tied_head:
        matrix = weight(f"{name}.weight")
    else:
        matrix = weight(embedding).with_role("head")
    biases = [weight(f"{name}.bias")] if c.head_bias else None
    builder.output_logits(builder.linear(normed, [matrix], biases))

"""What a definition says of other models, read from a traced graph and its configuration.

How the model computes stands in the graph alone, so only the constants are set that the rest of the
exporter reads. What configurations of unknown types call them is tried name by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgewise.exporter.graph.onnx_traced import TracedGraph, TracedGraphError
from edgewise.exporter.models.decoder import DecoderConfiguration, TensorSpecification
from edgewise.exporter.models.encoder import EncoderConfiguration, labels_of
from edgewise.exporter.traced.tasks import HEADS, TracingTask, family_of_task
from edgewise.runtime.manifest import Family

CONTEXT_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "n_ctx",
    "seq_length",
)
HEADS_NAMES = ("num_attention_heads", "n_heads", "n_head", "num_heads")
WIDTH_NAMES = ("hidden_size", "d_model", "n_embd", "dim")
MLP_NAMES = ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "hidden_dim")
# Models without positions of their own (ALiBi) go on for ever; few were trained with more.
ENDLESS_CONTEXT = 2048  # tokens
# Types whose first position is the row behind that of the padding token, as in RoBERTa.
POSITIONS_BEHIND_PADDING = frozenset(
    {"camembert", "data2vec-text", "esm", "ibert", "longformer", "mpnet"}
)


@dataclass(frozen=True)
class TracedModel:
    """Fulfils ``Definition`` for one graph."""

    graph: TracedGraph
    task: TracingTask

    def __post_init__(self) -> None:
        if (self.graph.cache is None) != (self.family == "encoder"):
            raise TracedGraphError(
                f"the graph that was traced for {self.task} has "
                f"{'no cache' if self.graph.cache is None else 'a cache'}; upgrade optimum-onnx"
            )

    @property
    def family(self) -> Family:
        """What kind of model the graph is of."""
        return family_of_task(self.task)

    def configuration(
        self, config: Mapping[str, Any]
    ) -> DecoderConfiguration | EncoderConfiguration:
        """See ``Definition``."""
        vocabulary_size, embedding_size = self.graph.embedding.shape
        width = first_number(config, WIDTH_NAMES, embedding_size)
        context = first_number(config, CONTEXT_NAMES, ENDLESS_CONTEXT)
        if config["model_type"] in POSITIONS_BEHIND_PADDING:
            context -= int(config.get("pad_token_id") or 0) + 1
        cache = self.graph.cache
        if cache is not None:
            return DecoderConfiguration(
                vocabulary_size=vocabulary_size,
                hidden_size=width,
                layers=cache.layers,
                heads=cache.key_value_heads,
                key_value_heads=cache.key_value_heads,
                head_size=cache.head_size,
                intermediate_size=first_number(config, MLP_NAMES, 4 * width),
                norm_epsilon=0.0,
                context_length=context,
                rotary=None,
                tied_head=self.graph.tied_head,
            )
        heads = first_number(config, HEADS_NAMES, 1)
        head = HEADS[self.task]
        return EncoderConfiguration(
            vocabulary_size=vocabulary_size,
            hidden_size=width,
            layers=first_number(config, ("num_hidden_layers", "n_layers", "n_layer"), 1),
            heads=heads,
            head_size=width // heads,
            intermediate_size=first_number(config, MLP_NAMES, 4 * width),
            norm_epsilon=0.0,
            context_length=context,
            position_offset=0,
            token_types=0,
            activation="gelu",
            head=head,
            labels=labels_of(config) if head.endswith("classification") else (),
            tied_head=self.graph.tied_head,
        )

    def tensors(self, configuration: object) -> dict[str, TensorSpecification]:
        """See ``Definition``; those of the graph, by the modules that they are of."""
        del configuration
        return {
            name: TensorSpecification(shape, role)
            for name, (shape, role) in self.graph.tensors.items()
        }

    def ignored(self, name: str) -> bool:
        """See ``Definition``; what the graph does not need, the tracer has left out."""
        del name
        return True


def first_number(config: Mapping[str, Any], names: tuple[str, ...], default: int) -> int:
    """Return the first of some settings that is a number above zero."""
    given = (config.get(name) for name in names)
    return next((value for value in given if type(value) is int and value > 0), default)

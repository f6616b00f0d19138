"""What a definition says of other models, read from the two traced graphs of an encoder-decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgewise.exporter.graph.onnx_traced import TracedGraph, TracedGraphError
from edgewise.exporter.models.decoder import TensorSpecification
from edgewise.exporter.models.encoder_decoder import EncoderDecoderConfiguration
from edgewise.exporter.traced.model import (
    CONTEXT_NAMES,
    ENDLESS_CONTEXT,
    MLP_NAMES,
    WIDTH_NAMES,
    first_number,
)
from edgewise.runtime.manifest import Family

LAYERS_NAMES = ("encoder_layers", "num_layers", "num_hidden_layers")
DECODER_MLP_NAMES = ("decoder_ffn_dim", "encoder_ffn_dim", *MLP_NAMES)


@dataclass(frozen=True)
class TracedPair:
    """Fulfils ``Definition`` for an encoder's graph and the decoder's that takes its results."""

    encoder: TracedGraph
    decoder: TracedGraph

    def __post_init__(self) -> None:
        if self.decoder.cache is None or self.encoder.cache is not None:
            raise TracedGraphError(
                "the graphs that were traced of an encoder-decoder have no cache, or two; upgrade "
                "optimum-onnx"
            )
        given = {name for name in self.encoder.outputs if name in self.decoder.values}
        if not given or given != self.decoder.cross:
            raise TracedGraphError(
                f"the traced decoder takes {len(self.decoder.cross)} keys and values of its encoder"
                f", which gives {len(given)} of them"
            )
        self.decoder.share_embedding(self.encoder.embedding)

    @property
    def family(self) -> Family:
        """What kind of model the graphs are of."""
        return "encoder_decoder"

    def configuration(self, config: Mapping[str, Any]) -> EncoderDecoderConfiguration:
        """See ``Definition``."""
        vocabulary_size, embedding_size = self.decoder.embedding.shape
        cache = self.decoder.cache
        if cache is None:
            raise TypeError("the decoder of a pair has a cache")
        width = first_number(config, WIDTH_NAMES, embedding_size)
        start = config.get("decoder_start_token_id")
        if start is None:
            start = config.get("pad_token_id") or 0  # as transformers shifts targets to the right
        return EncoderDecoderConfiguration(
            vocabulary_size=vocabulary_size,
            hidden_size=width,
            encoder_layers=first_number(config, LAYERS_NAMES, cache.layers),
            decoder_layers=cache.layers,
            heads=cache.key_value_heads,
            head_size=cache.head_size,
            intermediate_size=first_number(config, DECODER_MLP_NAMES, 4 * width),
            norm_epsilon=0.0,
            context_length=first_number(config, CONTEXT_NAMES, ENDLESS_CONTEXT),
            activation="gelu",
            tied_head=self.decoder.tied_head,
            start_token_id=int(start),
            forced_first_token_id=config.get("forced_bos_token_id"),
            forced_last_token_id=config.get("forced_eos_token_id"),
        )

    def tensors(self, configuration: object) -> dict[str, TensorSpecification]:
        """See ``Definition``; those of both graphs, by the modules that they are of."""
        del configuration
        return {
            name: TensorSpecification(shape, role)
            for name, (shape, role) in {**self.encoder.tensors, **self.decoder.tensors}.items()
        }

    def ignored(self, name: str) -> bool:
        """See ``Definition``; what the graphs do not need, the tracer has left out."""
        del name
        return True

"""The TFLite builder of graphs that look tokens up one by one.

A model file holds a graph for each of several numbers of tokens, named "embed_128".

| input | type | shape |
|---|---|---|
| token_ids | int32 | [T] |

| output | type | shape |
|---|---|---|
| what ``output`` names | float32 | [T, features] |
"""

from __future__ import annotations

from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_graph import Edge, ElementType
from edgewise.exporter.graph.tflite_operations import TOKEN_IDS, TfliteOperations
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.graph.weight import Weight

LOOKUP_TOKENS = (1, 128)  # of each graph: a step of an answer, a chunk of a prompt


class TfliteLookupBuilder(TfliteOperations):
    """Fulfils ``LookupBuilder`` for a number of tokens; `finish` adds the graph to the file."""

    def __init__(self, model: TfliteFile, weights: WeightStore, tokens: int) -> None:
        """Begin a graph.

        Args:
            model: The file that takes graphs and arrays.
            weights: The model's weights, shared by its graphs.
            tokens: How many it looks up at once.
        """
        super().__init__(model, weights, f"embed_{tokens}", tokens)

    def token_ids(self) -> Edge:
        """See ``TokenOperations``; [T]."""
        return self._graph.input(TOKEN_IDS, (self._tokens,), ElementType.INT32)

    def position_embedding(self, weight: Weight, offset: int) -> Edge:
        """See ``Operations``; refused, for a token by itself has no position."""
        raise ValueError(f"tokens that are looked up have no positions ({weight.name}, {offset})")

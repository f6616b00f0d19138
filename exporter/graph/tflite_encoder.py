"""The TFLite builder of encoders: lowers the op vocabulary to primitives that XNNPACK takes.

A model file holds a graph for each of several lengths, named "encode_128"; all refer to the same
weights. A text is padded to the shortest length that holds it.

| input | type | shape |
|---|---|---|
| token_ids | int32 | [T], padding behind the real ones |
| token_count | int32 | [1], how many of the T are real |
| token_types | int32 | [T]; only where the model has two types or more |

| output | type | shape |
|---|---|---|
| what ``output`` names | float32 | [T or 1, features] |
| cross_key.{layer}, cross_value.{layer} | float32 | [1, heads, T, head size] |

The last are what a decoder's graph takes under the same names: computed once a sequence.
"""

from __future__ import annotations

import numpy as np

from edgewise.exporter.graph.attention import CrossAttention, FullAttention, RelativeBias
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_graph import Edge, ElementType, Operator
from edgewise.exporter.graph.tflite_operations import CROSS_NAMES, TOKEN_IDS, TfliteOperations
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.graph.weight import Weight, pack_name

TOKEN_COUNT = "token_count"  # noqa: S105 - a name, no secret
TOKEN_TYPES = "token_types"  # noqa: S105 - a name, no secret
LENGTHS = (32, 128, 512)  # tokens


def encoder_lengths(context_length: int) -> tuple[int, ...]:
    """Choose the lengths of a model's graphs: powers of 4 times 32, and the context."""
    return (*(length for length in LENGTHS if length < context_length), context_length)


class TfliteEncoderBuilder(TfliteOperations):
    """Fulfils ``EncoderBuilder`` for one length; `finish` adds the graph to the model file."""

    def __init__(self, model: TfliteFile, weights: WeightStore, tokens: int) -> None:
        """Begin a graph.

        Args:
            model: The file that takes graphs and arrays.
            weights: The model's weights, shared by its graphs.
            tokens: The length, padding included.
        """
        super().__init__(model, weights, f"encode_{tokens}", tokens)
        self._token_ids = self._graph.input(TOKEN_IDS, (tokens,), ElementType.INT32)
        self._count = self._graph.input(TOKEN_COUNT, (1,), ElementType.INT32)
        self._padding_mask = self._beyond_mask(self._count, tokens, "padding_mask")

    def token_ids(self) -> Edge:
        """See ``Operations``; one sequence, [T]."""
        return self._token_ids

    def type_embedding(self, weight: Weight) -> Edge:
        """See ``EncoderBuilder``; [T or 1, D]."""
        if weight.shape[0] == 1:
            return self._graph.constant(pack_name([weight]), weight.source.read())
        types = self._graph.input(TOKEN_TYPES, (self._tokens,), ElementType.INT32)
        return self._linear.table_rows(pack_name([weight]), weight.source.read(), types)

    def position_embedding(self, weight: Weight, offset: int) -> Edge:
        """See ``Operations``; [T, D]."""
        rows = self._graph.integers(range(self._tokens))
        return self._position_rows(weight, offset, self._tokens, rows)

    def full_attention(self, query_key_value: Edge, attention: FullAttention) -> Edge:
        """See ``EncoderBuilder``."""
        biases = [self._padding_mask]
        if attention.relative_bias is not None:
            biases.append(self._relative_bias(attention.relative_bias))
        return self._attend_both_ways(query_key_value, attention, biases)

    def first_token(self, x: Edge) -> Edge:
        """See ``EncoderBuilder``; [1, D]."""
        return self._graph.slice(x, 0, 0, 1, f"first_token.{x.index}")

    def mean_of_tokens(self, x: Edge) -> Edge:
        """See ``EncoderBuilder``; a product with a row of 1 / count and zeros: [1, D]."""
        g, name = self._graph, f"mean.{x.index}"
        count = self._to_float32(self._count, f"{name}/count")
        places = np.arange(self._tokens, dtype=np.float32)[None]
        table = g.constant(f"token_places/{self._tokens}", places)
        before = g.binary(Operator.SUB, count, table, f"{name}/before")
        real = g.binary(Operator.MAXIMUM, before, g.number(0), f"{name}/above_0")
        real = g.binary(Operator.MINIMUM, real, g.number(1), f"{name}/real")
        total = g.matrix_product(real, x, f"{name}/total", transposed=False)
        return g.binary(Operator.DIV, total, count, name)

    def output_cross(self, key_value: Edge, attention: CrossAttention) -> None:
        """See ``EncoderBuilder``."""
        g, name = self._graph, f"layers.{attention.layer}/cross"
        rows = self._heads_first(key_value, 2 * attention.heads, name)
        for index, template in enumerate(CROSS_NAMES):
            part = g.slice(rows, 1, index * attention.heads, attention.heads, f"{name}/{index}")
            g.output(template.format(layer=attention.layer), part)

    def _relative_bias(self, relative: RelativeBias) -> Edge:
        """Store each head's bias of every pair of positions: [1, heads, T, T]."""
        places = np.arange(self._tokens)
        bias = relative.of(places[None, :] - places[:, None]).transpose(2, 0, 1)[None]
        return self._graph.constant(f"{pack_name([relative.weight])}/bias_{self._tokens}", bias)

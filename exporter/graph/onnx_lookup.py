"""The ONNX builder of graphs that look tokens up one by one.

| name | type | shape |
|---|---|---|
| input_ids | int64 | [batch, tokens] |
| what ``output`` names | float32 | [batch, tokens, features] |
"""

from __future__ import annotations

from onnx import TensorProto

from edgewise.exporter.graph.onnx_operations import INPUT_IDS, OnnxOperations
from edgewise.exporter.graph.weight import Weight


class OnnxLookupBuilder(OnnxOperations):
    """Fulfils ``LookupBuilder``; values are names of graph edges. ``finish`` gives the model."""

    def token_ids(self) -> str:
        """See ``TokenOperations``."""
        self._graph.add_input(INPUT_IDS, TensorProto.INT64, ["batch", "tokens"])
        return INPUT_IDS

    def position_embedding(self, weight: Weight, offset: int) -> str:
        """See ``Operations``; refused, for a token by itself has no position."""
        raise ValueError(f"tokens that are looked up have no positions ({weight.name}, {offset})")

"""What a description declares, found out without a weight: its inputs and its results.

Workflow: a model's pass is described to an `OutlineBuilder`, which computes nothing and writes down
what a bundle's manifest has to name. It knows every operation by not looking at them: whatever is
asked for gives a `Placeholder`, which stands for a value or, unpacked, for several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edgewise.exporter.graph.attention import CrossAttention
from edgewise.exporter.graph.weight import Weight

VALUES_OF_AN_OPERATION = 2  # an added norm gives the sum as well; no operation gives more
LOGITS = "logits"


class Placeholder:
    """Stands for any value, and for the pair of values that some operations give."""

    def __iter__(self) -> Iterator[Placeholder]:
        """Unpack into as many values as an operation gives."""
        return iter([self] * VALUES_OF_AN_OPERATION)

    def __getitem__(self, index: int) -> Placeholder:
        """Take one of several values."""
        return self


@dataclass
class OutlineBuilder:
    """Fulfils every builder protocol.

    Attributes:
        outputs: Names of the results, in order; keys and values of a cache are left out.
        cross_layers: Decoder layers that attend to an encoder, or whose keys and values the
            encoder's graph gives.
        has_token_types: Whether the graph takes, for each token, which of two texts it is of.
    """

    outputs: list[str] = field(default_factory=list)
    cross_layers: list[int] = field(default_factory=list)
    has_token_types: bool = False

    def __getattr__(self, operation: str) -> Callable[..., Placeholder]:
        """Give an operation that takes anything."""
        if operation.startswith("_"):
            raise AttributeError(operation)
        return lambda *_arguments, **_options: Placeholder()

    def type_embedding(self, weight: Weight) -> Placeholder:
        """See ``EncoderBuilder``."""
        self.has_token_types = weight.shape[0] > 1
        return Placeholder()

    def cross_attention(self, query: Placeholder, attention: CrossAttention) -> Placeholder:
        """See ``GraphBuilder``."""
        del query
        self.cross_layers.append(attention.layer)
        return Placeholder()

    def output_cross(self, key_value: Placeholder, attention: CrossAttention) -> None:
        """See ``EncoderBuilder``."""
        del key_value
        self.cross_layers.append(attention.layer)

    def output(self, name: str, x: Placeholder) -> None:
        """See ``EncoderBuilder``."""
        del x
        self.outputs.append(name)

    def output_logits(self, x: Placeholder) -> None:
        """See ``GraphBuilder``."""
        del x
        self.outputs.append(LOGITS)

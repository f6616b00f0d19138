"""Post-norm layers whose every product and norm carries a bias, and the tables of their tensors.

BERT, RoBERTa, DistilBERT and BART all are made of them: x = norm(x + attention(x)), then
x = norm(x + mlp(x)) (arXiv 1706.03762, with LayerNorm). They differ in what they call the parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from edgewise.exporter.graph.attention import FullAttention
from edgewise.exporter.graph.protocol import Activation, EncoderBuilder, Operations, Value
from edgewise.exporter.graph.weight import Role, Weight
from edgewise.exporter.models.decoder import TensorSpecification


class TensorTable(dict[str, TensorSpecification]):
    """The tensors of a model, declared by layer: each has a weight and a bias."""

    def add_matrix(self, name: str, rows: int, columns: int, role: Role) -> None:
        """Declare a product."""
        self[f"{name}.weight"] = TensorSpecification((rows, columns), role)
        self[f"{name}.bias"] = TensorSpecification((rows,), "bias")

    def add_norm(self, name: str, width: int) -> None:
        """Declare a LayerNorm."""
        self[f"{name}.weight"] = TensorSpecification((width,), "norm")
        self[f"{name}.bias"] = TensorSpecification((width,), "bias")


@dataclass(frozen=True)
class AttentionNames:
    """What an architecture calls the parts of an attention, behind the layer's own name."""

    query_key_value: tuple[str, str, str]
    output: str
    norm: str

    def add_to(self, table: TensorTable, layer: str, width: int) -> None:
        """Declare a layer's tensors."""
        for part in (*self.query_key_value, self.output):
            table.add_matrix(f"{layer}.{part}", width, width, "attention")
        table.add_norm(f"{layer}.{self.norm}", width)


@dataclass(frozen=True)
class MlpNames:
    """What an architecture calls the parts of an MLP, behind the layer's own name."""

    inner: str
    outer: str
    norm: str

    def add_to(self, table: TensorTable, layer: str, width: int, inner_width: int) -> None:
        """Declare a layer's tensors."""
        table.add_matrix(f"{layer}.{self.inner}", inner_width, width, "mlp")
        table.add_matrix(f"{layer}.{self.outer}", width, inner_width, "mlp")
        table.add_norm(f"{layer}.{self.norm}", width)


@dataclass(frozen=True)
class PostNormLayers(Generic[Value]):
    """Describes layers on a builder by the names of their tensors.

    Attributes:
        builder: Takes the operations.
        weight: Gives a tensor by its name.
        epsilon: Added to the variance in the norms.
    """

    builder: Operations[Value]
    weight: Callable[[str], Weight]
    epsilon: float

    def linear(self, x: Value, *names: str) -> Value:
        """Multiply by one or several matrices and add their biases."""
        return self.builder.linear(
            x,
            [self.weight(f"{name}.weight") for name in names],
            [self.weight(f"{name}.bias") for name in names],
        )

    def norm(self, x: Value, name: str) -> Value:
        """Normalize."""
        return self.builder.layer_norm(
            x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), self.epsilon
        )

    def normed_sum(self, residual: Value, x: Value, name: str) -> Value:
        """Add and normalize."""
        return self.builder.add_layer_norm(
            residual, x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), self.epsilon
        )[1]

    def query_key_value(self, x: Value, layer: str, names: AttentionNames) -> Value:
        """Project to what self-attention takes."""
        return self.linear(x, *(f"{layer}.{part}" for part in names.query_key_value))

    def attended(self, hidden: Value, context: Value, layer: str, names: AttentionNames) -> Value:
        """Project what attention gave, add it to the states and normalize."""
        output = self.linear(context, f"{layer}.{names.output}")
        return self.normed_sum(hidden, output, f"{layer}.{names.norm}")

    def mlp(self, hidden: Value, layer: str, names: MlpNames, activation: Activation) -> Value:
        """Run the MLP, add its result to the states and normalize."""
        inner = self.linear(hidden, f"{layer}.{names.inner}")
        outer = self.linear(self.builder.activation(inner, activation), f"{layer}.{names.outer}")
        return self.normed_sum(hidden, outer, f"{layer}.{names.norm}")


def encoder_layer(
    builder: EncoderBuilder[Value],
    layers: PostNormLayers[Value],
    hidden: Value,
    name: str,
    names: tuple[AttentionNames, MlpNames],
    attention: FullAttention,
    activation: Activation,
) -> Value:
    """Describe a whole layer of an encoder: states to states."""
    attention_names, mlp_names = names
    packed = layers.query_key_value(hidden, name, attention_names)
    context = builder.full_attention(packed, attention)
    hidden = layers.attended(hidden, context, name, attention_names)
    return layers.mlp(hidden, name, mlp_names, activation)

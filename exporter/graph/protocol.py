"""The op vocabulary in which every model is written once.

Workflow: a model file (``exporter/models``) calls these operations on a builder; the builder lowers
each its own way. The numpy builders compute at once and are the reference, the ONNX builders emit
onnxruntime's fused operators, the TFLite builders primitives that XNNPACK takes.

A graph is one of three kinds. `GraphBuilder` describes a decoder: new tokens behind a cache, and
perhaps the keys and values of an encoder's states. `EncoderBuilder` describes an encoder: whole
sequences that see themselves in both directions, padding behind the real tokens. `ImageBuilder`
describes what turns images into vectors: each is a sequence of patches, of one length. What all
know is `Operations`.

Rules: an operation stands at the level at which inference engines have kernels; a builder never
knows a model, a model never names a builder's operator; weights enter as lazy handles with a role,
and only the builder reads them, one at a time.

Shapes: B sequences, T new tokens each, D features, S tokens of an encoder. Activations are float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.graph.derived_weights import MatrixOf, RowsOf, Shifted, Transposed
from edgewise.exporter.graph.relative_positions import RelativeBuckets
from edgewise.exporter.quantize.prepared import PreparedMatrix
from edgewise.exporter.quantize.recipes import Recipe, WeightFormat
from edgewise.exporter.quantize.streaming import WeightSource

Role = Literal["embedding", "attention", "mlp", "head", "norm", "bias", "position"]
Activation = Literal["silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "tanh"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Weight:
    """A named weight of a model and the role by which a recipe chooses its format.

    Attributes:
        name: The checkpoint's, or that of a part.
        role: What it is used for.
        source: The checkpoint's numbers.
        prepared: Matrices by name of which more is decided than the recipe says; this weight may be
            among them, and so may what is made of it.
    """

    name: str
    role: Role
    source: WeightSource
    prepared: Mapping[str, PreparedMatrix] = field(
        default_factory=dict, compare=False, repr=False, kw_only=True
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as the checkpoint stores it."""
        return self.source.shape

    def with_role(self, role: Role) -> Weight:
        """Return the same numbers under another role (a tied head reads the embedding)."""
        return replace(self, role=role)

    def rows(self, start: int, stop: int, name: str) -> Weight:
        """Return rows of it as a weight of its own, as where a checkpoint stores several in one."""
        return replace(self, name=name, source=RowsOf(self.source, start, stop))

    def matrix(self, columns: int) -> Weight:
        """Return it as a matrix [rows, columns], zeros behind what its rows hold."""
        return replace(self, source=MatrixOf(self.source, columns))

    def transposed(self) -> Weight:
        """Return it with its axes swapped, as where a matrix is stored [in, out]."""
        return replace(self, source=Transposed(self.source))

    def plus(self, number: float) -> Weight:
        """Return it with a number added everywhere, as where a norm is stored less 1."""
        return replace(self, source=Shifted(self.source, number)) if number else self

    def format_in(self, recipe: Recipe) -> WeightFormat:
        """Return the format that was decided for it, or else that of its role.

        Raises:
            RecipeError: No recipe has a format for its role.
        """
        prepared = self.prepared.get(self.name)
        return recipe.format_for(self.role) if prepared is None else prepared.form

    @property
    def stored(self) -> WeightSource:
        """What its stored form is made of: as prepared, or else the checkpoint's numbers."""
        return self.prepared.get(self.name, self.source)


def pack_name(weights: Sequence[Weight]) -> str:
    """Name a pack after its first weight and how many more follow."""
    first = weights[0].name.removesuffix(".weight")
    return first if len(weights) == 1 else f"{first}+{len(weights) - 1}"


@dataclass(frozen=True, eq=False)
class CacheScales:
    """What a step of the codes stands for in which a layer keeps keys and values with 8 bits.

    Attributes:
        keys: float32 [key-value heads, head size], of the keys as they are kept, rotated.
        values: float32 [key-value heads, head size].
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding in half-split order (RoFormer, arXiv 2104.09864; NeoX layout).

    Attributes:
        inverse_frequencies: One angle step in radians a position for each rotated pair; twice as
            many leading features of a head rotate, the rest pass.
        factor: On what rotates, queries and keys alike; 1 but for some long-context scalings.
    """

    inverse_frequencies: tuple[float, ...]
    factor: float = 1.0

    def tables(self, positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cosine and sine, float32 [positions, pairs], computed in float64."""
        angles = np.outer(
            np.arange(positions, dtype=np.float64),
            np.asarray(self.inverse_frequencies, dtype=np.float64),
        )
        cosine, sine = self.factor * np.cos(angles), self.factor * np.sin(angles)
        return cosine.astype(np.float32), sine.astype(np.float32)


@dataclass(frozen=True)
class RelativeBias:
    """A learned number for each head and bucket of relative positions, added to the scores.

    Attributes:
        weight: [buckets, heads]; small, and never quantized.
        buckets: Which bucket an offset falls into.
    """

    weight: Weight
    buckets: RelativeBuckets

    def of(self, offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return each head's bias, [..., heads], for offsets of key minus query, [...]."""
        return self.weight.source.read()[self.buckets.of(offsets)]


@dataclass(frozen=True)
class QueryKeyNorms:
    """An RMSNorm over each head of queries and of keys, before they rotate (arXiv 2302.05442).

    Attributes:
        query: [head size], the factors of all query heads.
        key: [head size], those of all key heads.
        epsilon: Added to the mean square.
    """

    query: Weight
    key: Weight
    epsilon: float


@dataclass(frozen=True)
class Attention:
    """One layer's causal self-attention over its cache (grouped query: arXiv 2305.13245).

    Attributes:
        layer: Index of the layer, and so of its cache.
        heads: Query heads.
        key_value_heads: Key and value heads; divides ``heads``.
        head_size: Features a head.
        scale: Factor on the scores before the softmax.
        rotary: Rotation of queries and keys by position, or None.
        relative_bias: What is added to the scores by relative position, or None.
        window: How many tokens a query sees, itself and those before it; None for all.
        norms: Of queries and keys by head, or None.
    """

    layer: int
    heads: int
    key_value_heads: int
    head_size: int
    scale: float
    rotary: Rotary | None
    relative_bias: RelativeBias | None = None
    window: int | None = None
    norms: QueryKeyNorms | None = None


@dataclass(frozen=True)
class FullAttention:
    """One layer's self-attention of an encoder: every real token sees every other.

    Attributes:
        layer: Index of the layer.
        heads: Heads of queries, keys and values.
        head_size: Features a head.
        scale: Factor on the scores before the softmax; 1 in T5.
        relative_bias: What is added to the scores by relative position, or None.
    """

    layer: int
    heads: int
    head_size: int
    scale: float
    relative_bias: RelativeBias | None = None


@dataclass(frozen=True)
class CrossAttention:
    """One decoder layer's attention to the encoder's tokens.

    Attributes:
        layer: Index of the layer.
        heads: Heads of queries, keys and values.
        head_size: Features a head.
        scale: Factor on the scores before the softmax.
    """

    layer: int
    heads: int
    head_size: int
    scale: float


class Operations(Protocol[Value]):
    """What every graph may use; ``Value`` is whatever the builder passes between operations."""

    def position_embedding(self, weight: Weight, offset: int) -> Value:
        """Look up the rows of learned positions.

        Args:
            weight: [positions, D]; never quantized.
            offset: The row of a sequence's first token (2 in RoBERTa and BART).

        Returns:
            [B or 1, T, D], to be added to the token's own.
        """
        ...

    def linear(
        self, x: Value, weights: Sequence[Weight], biases: Sequence[Weight] | None = None
    ) -> Value:
        """Multiply by one or several matrices at once and join the results along features.

        Args:
            x: [B, T, K].
            weights: Matrices [N_i, K]; several are packed into one product where formats allow.
            biases: As many vectors [N_i], or None.

        Returns:
            [B, T, sum of N_i].
        """
        ...

    def rms_norm(self, x: Value, weight: Weight, epsilon: float) -> Value:
        """Return x / sqrt(mean(x^2) + epsilon) * weight, over the last axis (arXiv 1910.07467)."""
        ...

    def add_rms_norm(
        self, residual: Value, x: Value, weight: Weight, epsilon: float
    ) -> tuple[Value, Value]:
        """Return (residual + x, rms_norm(residual + x))."""
        ...

    def layer_norm(self, x: Value, weight: Weight, bias: Weight, epsilon: float) -> Value:
        """Return (x - mean) / sqrt(variance + epsilon) * weight + bias (arXiv 1607.06450)."""
        ...

    def add_layer_norm(
        self, residual: Value, x: Value, weight: Weight, bias: Weight, epsilon: float
    ) -> tuple[Value, Value]:
        """Return (residual + x, layer_norm(residual + x)), both of one shape."""
        ...

    def add(self, left: Value, right: Value) -> Value:
        """Add elementwise; an axis of 1 stretches."""
        ...

    def scale(self, x: Value, factor: float) -> Value:
        """Multiply by a constant."""
        ...

    def activation(self, x: Value, activation: Activation) -> Value:
        """Apply an activation function elementwise."""
        ...

    def gated_activation(self, gate_up: Value, activation: Activation) -> Value:
        """Split [B, T, 2 F] into gate and up; return activation(gate) * up, [B, T, F]."""
        ...


class TokenOperations(Operations[Value], Protocol[Value]):
    """What a graph that reads tokens may use besides."""

    def token_ids(self) -> Value:
        """Return the graph's input token ids, int64 [B, T]."""
        ...

    def embedding(self, token_ids: Value, weight: Weight) -> Value:
        """Look rows up: ids [B, T] and weight [vocabulary, D] give [B, T, D]."""
        ...


class GraphBuilder(TokenOperations[Value], Protocol[Value]):
    """The operations of a decoder: new tokens behind a cache."""

    def embedded_tokens(self, weight: Weight, scale: float = 1.0) -> Value:
        """Return the states with which the new tokens enter the first layer: [B, T, D].

        These are their rows of the embedding. A builder that was asked to take embeddings declares
        them as its input in place of the ids: text and images are then put together outside, and
        scaled.

        Args:
            weight: The embedding, [vocabulary, D].
            scale: Factor on its rows.
        """
        ...

    def attention(self, query_key_value: Value, attention: Attention) -> Value:
        """Norm, rotate, append keys and values to the layer's cache, attend causally.

        Args:
            query_key_value: [B, T, (heads + 2 * key_value_heads) * head_size], in that order.
            attention: The layer's constants.

        Returns:
            [B, T, heads * head_size].
        """
        ...

    def cross_attention(self, query: Value, attention: CrossAttention) -> Value:
        """Attend to the encoder's real tokens, by keys and values that its graph gave.

        Args:
            query: [B, T, heads * head_size].
            attention: The layer's constants.

        Returns:
            [B, T, heads * head_size].
        """
        ...

    def last_token(self, x: Value) -> Value:
        """Keep each sequence's last real token: [B, T, D] gives [B, 1, D].

        A builder that is asked for the logits of every position keeps them all.
        """
        ...

    def output_logits(self, x: Value) -> None:
        """Declare [B, 1 or T, vocabulary] as the result."""
        ...


class NamedResults(Operations[Value], Protocol[Value]):
    """What a graph that is no decoder may use besides."""

    def output(self, name: str, x: Value) -> None:
        """Declare [B, 1 or T, N] as a result under a name."""
        ...


class LookupBuilder(NamedResults[Value], TokenOperations[Value], Protocol[Value]):
    """The operations on tokens one by one, as where their vectors are asked for alone."""


class WholeSequences(NamedResults[Value], Protocol[Value]):
    """What a graph whose tokens see each other in both directions may use besides."""

    def full_attention(self, query_key_value: Value, attention: FullAttention) -> Value:
        """Attend to all real tokens.

        Args:
            query_key_value: [B, T, 3 * heads * head_size], in that order.
            attention: The layer's constants.

        Returns:
            [B, T, heads * head_size].
        """
        ...


class EncoderBuilder(WholeSequences[Value], TokenOperations[Value], Protocol[Value]):
    """The operations of an encoder: whole sequences, padding behind the real tokens.

    Padding before them is no input of such a graph: learned positions count from the row's start.
    The runtime gives a count of real tokens for each row; where a caller pads on the left, it moves
    the tokens to the front before and the results back afterwards (``runtime/padded_rows.py``).
    """

    def type_embedding(self, weight: Weight) -> Value:
        """Look up the rows of the graph's second input, token types: which of two texts it is.

        A single row belongs to every token, and then the graph has no such input.

        Args:
            weight: [types, D]; never quantized.

        Returns:
            [B, T, D], or a row that stretches, to be added to the token's own.
        """
        ...

    def first_token(self, x: Value) -> Value:
        """Keep each sequence's first token: [B, T, D] gives [B, 1, D]."""
        ...

    def mean_of_tokens(self, x: Value) -> Value:
        """Average over each sequence's real tokens: [B, T, D] gives [B, 1, D]."""
        ...

    def output_cross(self, key_value: Value, attention: CrossAttention) -> None:
        """Declare a decoder layer's keys and values of the encoder's tokens as results.

        Args:
            key_value: [B, T, 2 * heads * head_size], in that order.
            attention: The layer's constants.
        """
        ...


class ImageBuilder(WholeSequences[Value], Protocol[Value]):
    """The operations on images: T tokens each, none of them padding."""

    def image_patches(self, side: int, patch: int, features: int) -> Value:
        """Return the graph's input images, float32 [B, 3, side, side], cut into squares.

        Args:
            side: Pixels of an image's sides.
            patch: Pixels of a square's sides; divides ``side``.
            features: Numbers of a square: at least 3 * patch * patch; what is more are zeros, for
                formats that need a round number of them.

        Returns:
            [B, (side / patch)^2, features]; squares row by row, the numbers of each in the order
            [colour, row, column], as a convolution's weights have them.
        """
        ...

    def prepend(self, x: Value, row: Weight) -> Value:
        """Put a learned row [D] before each sequence: [B, T, D] gives [B, 1 + T, D]."""
        ...

    def later_tokens(self, x: Value) -> Value:
        """Leave each sequence's first token out: [B, T, D] gives [B, T - 1, D]."""
        ...

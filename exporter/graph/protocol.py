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

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

from edgewise.exporter.graph.attention import Attention, CrossAttention, FullAttention
from edgewise.exporter.graph.weight import Weight

Activation = Literal["silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "tanh"]
Value = TypeVar("Value")


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

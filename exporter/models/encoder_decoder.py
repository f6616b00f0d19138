"""What every encoder-decoder model declares, whatever its architecture."""

from __future__ import annotations

from dataclasses import dataclass

from edgewise.exporter.graph.protocol import Activation

ENCODER_STATES = "encoder_hidden_states"


@dataclass(frozen=True)
class EncoderDecoderConfiguration:
    """The constants of an encoder-decoder transformer.

    Attributes:
        vocabulary_size: Rows of the embedding that both sides share.
        hidden_size: Features a token.
        encoder_layers: Transformer layers of the encoder.
        decoder_layers: Transformer layers of the decoder.
        heads: Heads of queries, keys and values.
        head_size: Features a head; heads times this need not be the hidden size.
        intermediate_size: Features inside the MLP.
        norm_epsilon: Added to the mean square in the norms.
        context_length: Tokens that either side was trained with.
        relative_buckets: Buckets of relative positions.
        largest_distance: Positions from which on all share the last bucket.
        activation: Inside the MLP.
        gated_mlp: Whether one half of the MLP's features gates the other.
        tied_head: Whether the head reads the embedding's weights.
        head_scale: Factor on the states before the head.
        start_token_id: What the decoder begins with.
    """

    vocabulary_size: int
    hidden_size: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    head_size: int
    intermediate_size: int
    norm_epsilon: float
    context_length: int
    relative_buckets: int
    largest_distance: int
    activation: Activation
    gated_mlp: bool
    tied_head: bool
    head_scale: float
    start_token_id: int

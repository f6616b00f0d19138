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
        norm_epsilon: Added in the norms to the mean square or the variance.
        context_length: Tokens that either side was trained with.
        activation: Inside the MLP.
        tied_head: Whether the head reads the embedding's weights.
        start_token_id: What the decoder begins with.
        forced_first_token_id: What follows it whatever the logits say, or None.
        forced_last_token_id: What ends a text that reached its limit, or None.
        relative_buckets: Buckets of relative positions; 0 where positions are absolute.
        largest_distance: Relative positions from which on all share the last bucket.
        position_offset: Row of the first token's position, where positions are absolute.
        embedding_scale: Factor on the rows of the embedding.
        head_scale: Factor on the states before the head.
        gated_mlp: Whether one half of the MLP's features gates the other.
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
    activation: Activation
    tied_head: bool
    start_token_id: int
    forced_first_token_id: int | None = None
    forced_last_token_id: int | None = None
    relative_buckets: int = 0
    largest_distance: int = 0
    position_offset: int = 0
    embedding_scale: float = 1.0
    head_scale: float = 1.0
    gated_mlp: bool = False

"""An encoder of post-norm layers with its heads, by what an architecture calls its parts.

BERT, RoBERTa and DistilBERT compute the same but for their names, their positions and the
activations of their heads. A model file gives an `EncoderArchitecture`; what the graph gives is
what the checkpoint was made for:

| head | results |
|---|---|
| features | hidden_states [B, T, D], mean [B, 1, D] |
| masked_language_model | the same, and logits [B, T, vocabulary] |
| classification | logits [B, 1, labels] |
| token_classification | logits [B, T, labels] |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgewise.exporter.graph.attention import FullAttention
from edgewise.exporter.graph.protocol import Activation, EncoderBuilder, Value
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models.decoder import TensorSpecification
from edgewise.exporter.models.encoder import (
    HIDDEN_STATES,
    LOGITS,
    MEAN,
    EncoderConfiguration,
)
from edgewise.exporter.models.post_norm import (
    AttentionNames,
    MlpNames,
    PostNormLayers,
    TensorTable,
    encoder_layer,
)

EMBEDDING = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"
EMBEDDING_NORM = "embeddings.LayerNorm"
TOKEN_CLASSIFIER = "classifier"  # noqa: S105 - a name, no secret


@dataclass(frozen=True)
class WordPrediction:
    """The head that guesses words: dense, activation, norm, product with the embedding.

    Attributes:
        dense: Name of its first product.
        norm: Name of its norm.
        bias: Name of the vector that is added to the logits where the matrix is the embedding.
        decoder: Name of its last product where that has a matrix, and then a bias, of its own.
        activation: Between dense and norm; None for the MLPs' own.
    """

    dense: str
    norm: str
    bias: str
    decoder: str
    activation: Activation | None


@dataclass(frozen=True)
class TextClassification:
    """The head that classifies by the first token: dense, activation, product.

    Attributes:
        dense: Name of its first product.
        output: Name of its second.
        activation: Between them.
    """

    dense: str
    output: str
    activation: Activation


@dataclass(frozen=True)
class EncoderArchitecture:
    """What an architecture calls its parts, and how its heads are made.

    Attributes:
        prefix: Before the encoder's names where a head stands beside it.
        layers: The name that the layers' numbers follow.
        attention: Names behind the layer's.
        mlp: Likewise.
        prediction: Of "masked_language_model".
        classification: Of "classification".
    """

    prefix: str
    layers: str
    attention: AttentionNames
    mlp: MlpNames
    prediction: WordPrediction
    classification: TextClassification

    def tensors(self, configuration: EncoderConfiguration) -> dict[str, TensorSpecification]:
        """List every tensor of the checkpoint with its shape and role."""
        c = configuration
        width, base = c.hidden_size, self._base(c)
        positions = c.context_length + c.position_offset
        table = TensorTable()
        table[base + EMBEDDING] = TensorSpecification((c.vocabulary_size, width), "embedding")
        table[base + POSITIONS] = TensorSpecification((positions, width), "position")
        if c.token_types:
            table[base + TYPES] = TensorSpecification((c.token_types, width), "position")
        table.add_norm(base + EMBEDDING_NORM, width)
        for layer in range(c.layers):
            name = f"{base}{self.layers}.{layer}"
            self.attention.add_to(table, name, width)
            self.mlp.add_to(table, name, width, c.intermediate_size)
        match c.head:
            case "masked_language_model":
                table.add_matrix(self.prediction.dense, width, width, "mlp")
                table.add_norm(self.prediction.norm, width)
                if c.tied_head:
                    table[self.prediction.bias] = TensorSpecification((c.vocabulary_size,), "bias")
                else:
                    table.add_matrix(self.prediction.decoder, c.vocabulary_size, width, "head")
            case "classification":
                table.add_matrix(self.classification.dense, width, width, "mlp")
                table.add_matrix(self.classification.output, len(c.labels), width, "head")
            case "token_classification":
                table.add_matrix(TOKEN_CLASSIFIER, len(c.labels), width, "head")
            case "features":
                pass
        return table

    def forward(
        self,
        builder: EncoderBuilder[Value],
        configuration: EncoderConfiguration,
        weight: Callable[[str], Weight],
    ) -> None:
        """Describe one pass: token ids to what the head gives."""
        c = configuration
        layers = PostNormLayers(builder, weight, c.norm_epsilon)
        hidden = self._embedded(builder, layers, c)
        for layer in range(c.layers):
            hidden = encoder_layer(
                builder,
                layers,
                hidden,
                f"{self._base(c)}{self.layers}.{layer}",
                (self.attention, self.mlp),
                FullAttention(layer, c.heads, c.head_size, c.head_size**-0.5),
                c.activation,
            )
        if c.head in ("features", "masked_language_model"):
            builder.output(HIDDEN_STATES, hidden)
            builder.output(MEAN, builder.mean_of_tokens(hidden))
        match c.head:
            case "masked_language_model":
                builder.output(LOGITS, self._predicted(layers, hidden, c))
            case "classification":
                dense = layers.linear(builder.first_token(hidden), self.classification.dense)
                activated = builder.activation(dense, self.classification.activation)
                builder.output(LOGITS, layers.linear(activated, self.classification.output))
            case "token_classification":
                builder.output(LOGITS, layers.linear(hidden, TOKEN_CLASSIFIER))
            case "features":
                pass

    def _embedded(
        self,
        builder: EncoderBuilder[Value],
        layers: PostNormLayers[Value],
        c: EncoderConfiguration,
    ) -> Value:
        base, weight = self._base(c), layers.weight
        hidden = builder.embedding(builder.token_ids(), weight(base + EMBEDDING))
        if c.token_types:
            hidden = builder.add(hidden, builder.type_embedding(weight(base + TYPES)))
        positions = builder.position_embedding(weight(base + POSITIONS), c.position_offset)
        return layers.norm(builder.add(hidden, positions), base + EMBEDDING_NORM)

    def _predicted(
        self, layers: PostNormLayers[Value], hidden: Value, c: EncoderConfiguration
    ) -> Value:
        prediction, weight = self.prediction, layers.weight
        dense = layers.linear(hidden, prediction.dense)
        activated = layers.builder.activation(dense, prediction.activation or c.activation)
        normed = layers.norm(activated, prediction.norm)
        if not c.tied_head:
            return layers.linear(normed, prediction.decoder)
        head = weight(self._base(c) + EMBEDDING).with_role("head")
        return layers.builder.linear(normed, [head], [weight(prediction.bias)])

    def _base(self, c: EncoderConfiguration) -> str:
        """Return what stands before the encoder's names: nothing where there is no head."""
        return "" if c.head == "features" else self.prefix

"""``model_type: gemma3_text``: Gemma 3, text only.

Llama's attention and a GELU-gated MLP, each between two norms ("sandwich"); norms on heads of
queries and keys; five layers with a window for each that sees all, with rotary bases of their own;
an embedding scaled by hidden_size^0.5, which the head reads unscaled (arXiv 2503.19786). Norms are
stored less 1. Order of this file: configuration, tensors, forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from edgewise.exporter.graph.protocol import GraphBuilder, Value
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models import llama
from edgewise.exporter.models.decoder import (
    ConfigurationError,
    DecoderConfiguration,
    TensorSpecification,
)
from edgewise.exporter.models.decoder_head import output_head
from edgewise.exporter.models.encoder import activation_of
from edgewise.exporter.models.rotary import rotary_from_configuration
from edgewise.exporter.models.windows import FULL, SLIDING, windows_of

ignored = llama.ignored

DEFAULT_PATTERN = 6  # layers; the last of each such run sees all
DEFAULT_WINDOW_THETA = 10000.0
DEFAULT_HEAD_SIZE = 256
NOT_EXPORTED = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_bidirectional_attention",
)


def configuration(config: Mapping[str, Any]) -> DecoderConfiguration:
    """Read a Hugging Face ``Gemma3TextConfig``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    for name in NOT_EXPORTED:
        if config.get(name):
            raise ConfigurationError(
                f"{name} is {config[name]!r}; Gemma 3 generates text without it, and this export "
                "does not know it"
            )
    found = llama.configuration(
        {
            "tie_word_embeddings": True,
            **config,
            "head_dim": config.get("head_dim") or DEFAULT_HEAD_SIZE,
            "hidden_act": "silu",  # read below, under the name that Gemma has for it
        }
    )
    pattern = int(config.get("sliding_window_pattern") or DEFAULT_PATTERN)
    default = tuple(SLIDING if (layer + 1) % pattern else FULL for layer in range(found.layers))
    return replace(
        found,
        activation=activation_of(config, "hidden_activation", "gelu_pytorch_tanh"),
        windows=windows_of(config, found.layers, default),
        window_rotary=rotary_from_configuration(found.head_size, _window_theta(config), None),
        query_key_norms=True,
        query_scale=float(config.get("query_pre_attn_scalar") or found.head_size) ** -0.5,
        embedding_scale=found.hidden_size**0.5,
        norm_offset=float(config.get("norm_weight_offset", 1.0)),
    )


def tensors(configuration: DecoderConfiguration) -> dict[str, TensorSpecification]:
    """List every tensor of the checkpoint with its shape and role."""
    table = llama.tensors(configuration)
    for layer in range(configuration.layers):
        for side in ("pre", "post"):
            name = f"model.layers.{layer}.{side}_feedforward_layernorm.weight"
            table[name] = TensorSpecification((configuration.hidden_size,), "norm")
    return table


def forward(
    builder: GraphBuilder[Value],
    configuration: DecoderConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe one pass: token ids to logits, the cache extended."""
    c = configuration

    def shifted(name: str) -> Weight:
        found = weight(name)
        return found.plus(c.norm_offset) if found.role == "norm" else found

    def norm(x: Value, name: str) -> Value:
        return builder.rms_norm(x, shifted(f"{name}.weight"), c.norm_epsilon)

    def add_norm(residual: Value, x: Value, name: str) -> tuple[Value, Value]:
        return builder.add_rms_norm(residual, x, shifted(f"{name}.weight"), c.norm_epsilon)

    hidden = builder.embedded_tokens(weight(llama.EMBEDDING), c.embedding_scale)
    normed = norm(hidden, "model.layers.0.input_layernorm")
    for layer in range(c.layers):
        prefix = f"model.layers.{layer}"
        context = llama.attended(builder, c, shifted, layer, normed)
        is_last = layer == c.layers - 1
        if is_last:
            # Nothing after the last attention mixes positions: the rest is for the last token.
            context, hidden = builder.last_token(context), builder.last_token(hidden)
        names = [f"{prefix}.self_attn.o_proj"]
        projected = llama.linear(builder, weight, context, names, biases=c.output_bias)
        projected = norm(projected, f"{prefix}.post_attention_layernorm")
        hidden, normed = add_norm(hidden, projected, f"{prefix}.pre_feedforward_layernorm")
        outer = llama.gated_mlp(builder, c, weight, layer, normed)
        outer = norm(outer, f"{prefix}.post_feedforward_layernorm")
        following = "model.norm" if is_last else f"model.layers.{layer + 1}.input_layernorm"
        hidden, normed = add_norm(hidden, outer, following)
    output_head(builder, c, weight, normed, llama.EMBEDDING)


def _window_theta(config: Mapping[str, Any]) -> float:
    """Read the rotary base of layers with a window, as either version of transformers writes it."""
    by_kind = config.get("rope_parameters") or {}
    given = (by_kind.get(SLIDING) or {}).get("rope_theta", config.get("rope_local_base_freq"))
    return float(given or DEFAULT_WINDOW_THETA)

"""``model_type: phi-msft``: Phi checkpoints from before transformers knew them.

The same numbers under other names, with query, key and value in one matrix: nothing but names and
places is said here, and the graph is that of ``phi.py`` to the byte. ``n_embd``, ``n_head``,
``n_layer`` and ``rotary_dim`` stand for the configuration's usual keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from edgewise.exporter.graph.protocol import GraphBuilder, Value
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models import phi
from edgewise.exporter.models.decoder import DecoderConfiguration, TensorSpecification, required
from edgewise.exporter.models.rotary import rotary_from_configuration

DEFAULT_INNER_RATIO = 4  # of the MLP, where n_inner is null as it is in all published files

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
# The parts of names, from those of phi.py to the old ones.
_IN_LAYER = {
    "input_layernorm": "ln",
    "self_attn.dense": "mixer.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    **{f"self_attn.{part}": "mixer.Wqkv" for part in phi.QUERY_KEY_VALUE},
}
_OUTSIDE = {
    "model.embed_tokens": "transformer.embd.wte",
    "model.final_layernorm": "lm_head.ln",
    "lm_head": "lm_head.linear",
}


def configuration(config: Mapping[str, Any]) -> DecoderConfiguration:
    """Read the configuration that came with ``modeling_phi.py``.

    Raises:
        ConfigurationError: A value is missing or asks for what this architecture does not have.
    """
    hidden_size = int(required(config, "n_embd"))
    found = phi.configuration(
        {
            **config,
            "hidden_size": hidden_size,
            "num_attention_heads": required(config, "n_head"),
            "num_key_value_heads": config.get("n_head_kv"),
            "num_hidden_layers": required(config, "n_layer"),
            "intermediate_size": config.get("n_inner") or DEFAULT_INNER_RATIO * hidden_size,
            "max_position_embeddings": required(config, "n_positions"),
            "hidden_act": config.get("activation_function", "gelu_new"),
            "layer_norm_eps": config.get("layer_norm_epsilon", 1e-5),
        }
    )
    theta = float(config.get("rope_theta") or 10000.0)
    return replace(
        found, rotary=rotary_from_configuration(int(required(config, "rotary_dim")), theta, None)
    )


def tensors(configuration: DecoderConfiguration) -> dict[str, TensorSpecification]:
    """List every tensor of the checkpoint with its shape and role."""
    table: dict[str, TensorSpecification] = {}
    for name, specification in phi.tensors(configuration).items():
        old = _old_name(name)
        rows = table[old].shape[0] if old in table else 0
        shape = (rows + specification.shape[0], *specification.shape[1:])
        table[old] = TensorSpecification(shape, specification.role)
    return table


def ignored(name: str) -> bool:
    """Tell whether a checkpoint may hold this tensor although nothing reads it."""
    return phi.ignored(name)


def forward(
    builder: GraphBuilder[Value],
    configuration: DecoderConfiguration,
    weight: Callable[[str], Weight],
) -> None:
    """Describe one pass: token ids to logits, the cache extended."""
    c = configuration
    query, key_value = c.heads * c.head_size, c.key_value_heads * c.head_size
    ends = {"q_proj": query, "k_proj": query + key_value, "v_proj": query + 2 * key_value}

    def renamed(name: str) -> Weight:
        stored = weight(_old_name(name))
        for part, end in ends.items():
            if name.endswith((f".{part}.weight", f".{part}.bias")):
                return stored.rows(end - (query if part == "q_proj" else key_value), end, name)
        return stored.rows(0, stored.shape[0], name)

    phi.forward(builder, configuration, renamed)


def _old_name(name: str) -> str:
    """Return what the old checkpoints call a tensor of phi.py."""
    if match := _LAYER.fullmatch(name):
        layer, part, kind = match.groups()
        return f"transformer.h.{layer}.{_IN_LAYER[part]}.{kind}"
    part, _, kind = name.rpartition(".")
    return f"{_OUTSIDE[part]}.{kind}"

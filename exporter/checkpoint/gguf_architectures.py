"""What GGUF calls each architecture's configuration and tensors, and what Hugging Face calls them.

One architecture is one ``GgufArchitecture`` in ``ARCHITECTURES``; adding one changes nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class GgufArchitecture:
    """One value of ``general.architecture``."""

    name: str  # also the prefix of the architecture's fields
    model_type: str
    class_name: str
    layer_names: Mapping[str, str]  # within "blk.N." -> within "model.layers.N."
    rotated: frozenset[str] = frozenset()  # layer names whose rows stand in llama.cpp's order
    outer_names: Mapping[str, str] = field(
        default_factory=lambda: {
            "token_embd": "model.embed_tokens",
            "output_norm": "model.norm",
            "output": "lm_head",
        }
    )
    constants: Mapping[str, object] = field(default_factory=dict)  # config keys GGUF never states


_GATED_DECODER_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        GgufArchitecture(
            name="llama",
            model_type="llama",
            class_name="LlamaForCausalLM",
            layer_names=_GATED_DECODER_LAYER,
            rotated=frozenset({"attn_q", "attn_k"}),
            constants={"hidden_act": "silu"},
        ),
        GgufArchitecture(
            name="qwen2",
            model_type="qwen2",
            class_name="Qwen2ForCausalLM",
            layer_names=_GATED_DECODER_LAYER,
            constants={"hidden_act": "silu", "use_sliding_window": False},
        ),
    )
}

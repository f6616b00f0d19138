"""What GGUF calls each architecture's configuration and tensors, and what Hugging Face calls them.

One architecture is one ``GgufArchitecture`` in ``ARCHITECTURES``; adding one changes nothing else.
Names: the `gguf` package's ``TensorNameMap``; what conversion does to the numbers:
llama.cpp/convert_hf_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

RMS_EPSILON, LAYER_NORM_EPSILON = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"


@dataclass(frozen=True)
class GgufArchitecture:
    """One value of ``general.architecture``."""

    name: str  # also the prefix of the architecture's fields
    model_type: str
    class_name: str
    layer_names: Mapping[str, str]  # within "blk.N." -> within a layer of Hugging Face's
    rotated: frozenset[str] = frozenset()  # layer names whose rows stand in llama.cpp's order
    layers: str = "model.layers"  # what a layer's number follows
    outer_names: Mapping[str, str] = field(
        default_factory=lambda: {
            "token_embd": "model.embed_tokens",
            "output_norm": "model.norm",
            "output": "lm_head",
        }
    )
    # Layer names of old files whose rows are queries, keys and values -> names of the three.
    packed: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    epsilon: str = RMS_EPSILON
    rotates: Literal["whole heads", "a part of heads", "nothing"] = "whole heads"
    constants: Mapping[str, object] = field(default_factory=dict)  # config keys GGUF never states
    keys: Mapping[str, str] = field(default_factory=dict)  # llama's config keys -> its own


_ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_GATED_MLP = {
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}

ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        GgufArchitecture(
            name="llama",
            model_type="llama",
            class_name="LlamaForCausalLM",
            layer_names=_ATTENTION | _GATED_MLP,
            rotated=frozenset({"attn_q", "attn_k"}),
            constants={"hidden_act": "silu"},
        ),
        GgufArchitecture(
            name="qwen2",
            model_type="qwen2",
            class_name="Qwen2ForCausalLM",
            layer_names=_ATTENTION | _GATED_MLP,
            constants={"hidden_act": "silu", "use_sliding_window": False},
        ),
        GgufArchitecture(
            name="qwen3",
            model_type="qwen3",
            class_name="Qwen3ForCausalLM",
            layer_names=_ATTENTION | _HEAD_NORMS | _GATED_MLP,
            constants={"hidden_act": "silu", "use_sliding_window": False},
        ),
        GgufArchitecture(
            name="gemma3",
            model_type="gemma3_text",
            class_name="Gemma3ForCausalLM",
            layer_names={
                **_ATTENTION,
                **_HEAD_NORMS,
                **_GATED_MLP,
                "post_attention_norm": "post_attention_layernorm",
                "ffn_norm": "pre_feedforward_layernorm",
                "post_ffw_norm": "post_feedforward_layernorm",
            },
            constants={
                "hidden_activation": "gelu_pytorch_tanh",
                "sliding_window_pattern": 6,
                "rope_local_base_freq": 10000.0,
                "norm_weight_offset": 0.0,  # conversion has added the 1
            },
        ),
        GgufArchitecture(
            name="phi2",
            model_type="phi",
            class_name="PhiForCausalLM",
            layer_names={
                **_ATTENTION,
                "attn_output": "self_attn.dense",
                "ffn_up": "mlp.fc1",
                "ffn_down": "mlp.fc2",
            },
            outer_names={
                "token_embd": "model.embed_tokens",
                "output_norm": "model.final_layernorm",
                "output": "lm_head",
            },
            packed={"attn_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")},
            epsilon=LAYER_NORM_EPSILON,
            rotates="a part of heads",
            constants={"hidden_act": "gelu_new"},
            keys={"rms_norm_eps": "layer_norm_eps"},
        ),
        GgufArchitecture(
            name="phi3",
            model_type="phi3",
            class_name="Phi3ForCausalLM",
            layer_names={
                "attn_norm": "input_layernorm",
                "attn_qkv": "self_attn.qkv_proj",
                "attn_output": "self_attn.o_proj",
                "ffn_norm": "post_attention_layernorm",
                "ffn_up": "mlp.gate_up_proj",
                "ffn_down": "mlp.down_proj",
            },
            rotates="a part of heads",
            constants={"hidden_act": "silu"},
        ),
        GgufArchitecture(
            name="gpt2",
            model_type="gpt2",
            class_name="GPT2LMHeadModel",
            layer_names={
                "attn_norm": "ln_1",
                "attn_qkv": "attn.c_attn",
                "attn_output": "attn.c_proj",
                "ffn_norm": "ln_2",
                "ffn_up": "mlp.c_fc",
                "ffn_down": "mlp.c_proj",
            },
            layers="transformer.h",
            outer_names={
                "token_embd": "transformer.wte",
                "position_embd": "transformer.wpe",
                "output_norm": "transformer.ln_f",
                "output": "lm_head",
            },
            epsilon=LAYER_NORM_EPSILON,
            rotates="nothing",
            constants={
                "activation_function": "gelu_new",
                "transposed_weights": False,  # conversion has turned them
            },
            keys={
                "hidden_size": "n_embd",
                "num_hidden_layers": "n_layer",
                "num_attention_heads": "n_head",
                "intermediate_size": "n_inner",
                "max_position_embeddings": "n_positions",
                "rms_norm_eps": "layer_norm_epsilon",
            },
        ),
    )
}

"""Phi: what rotates, the old names, scores beyond float16, scoring heads."""

import dataclasses

import numpy as np
import pytest
from decoder_graphs import FLOAT_ROLES, RUNTIMES, built, step
from tiny_checkpoint import ArraySource, TinyModel, load_case

from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.numpy_operations import heads_first
from edgewise.exporter.graph.onnx_builder import OnnxBuilder
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models import find_model
from edgewise.exporter.models.decoder import ConfigurationError
from edgewise.exporter.quantize.recipes import Recipe

PHI_1 = {
    "model_type": "phi",
    "architectures": ["PhiForCausalLM"],
    "vocab_size": 51200,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "partial_rotary_factor": 0.5,
}
PHI_2 = PHI_1 | {
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 32,
    "partial_rotary_factor": 0.4,
}
PHI_2_OLD = {
    "model_type": "phi-msft",
    "architectures": ["PhiForCausalLM"],
    "vocab_size": 51200,
    "n_embd": 2560,
    "n_head": 32,
    "n_head_kv": None,
    "n_inner": None,
    "n_layer": 32,
    "n_positions": 2048,
    "rotary_dim": 32,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-05,
    "tie_word_embeddings": False,
}


def configured(config):
    return find_model(config["model_type"]).configuration(config)


@pytest.mark.parametrize("config", [PHI_1, PHI_2, PHI_2_OLD])
def test_every_published_size_rotates_32_features_of_a_head(config):
    assert len(configured(config).rotary.inverse_frequencies) == 16  # pairs


def test_old_keys_mean_the_same():
    assert configured(PHI_2) == configured(PHI_2_OLD)


def test_norms_on_queries_are_refused():
    with pytest.raises(ConfigurationError, match="qk_layernorm"):
        configured(PHI_1 | {"qk_layernorm": True})


def test_another_head_is_refused():
    with pytest.raises(ConfigurationError, match=r"PhiForQuestionAnswering.*ForTokenClass"):
        configured(PHI_1 | {"architectures": ["PhiForQuestionAnswering"]})


# The old names


class OldModel(TinyModel):
    """A tiny case under the names and the packing of phi-msft."""

    def __init__(self, case):
        super().__init__(case)
        c = self.configuration
        self.new_arrays = self.arrays
        self.definition = find_model("phi-msft")
        self.configuration = self.definition.configuration(
            {
                "model_type": "phi-msft",
                "vocab_size": c.vocabulary_size,
                "n_embd": c.hidden_size,
                "n_head": c.heads,
                "n_inner": c.intermediate_size,
                "n_layer": c.layers,
                "n_positions": c.context_length,
                "rotary_dim": 2 * len(c.rotary.inverse_frequencies),
            }
        )
        self.specifications = self.definition.tensors(self.configuration)
        self.arrays = {name: self.old_array(name) for name in self.specifications}

    def old_array(self, name):
        kind = name.rpartition(".")[2]
        outside = {
            "transformer.embd.wte": "model.embed_tokens",
            "lm_head.ln": "model.final_layernorm",
            "lm_head.linear": "lm_head",
        }
        if name.removesuffix(f".{kind}") in outside:
            return self.new_arrays[f"{outside[name.removesuffix(f'.{kind}')]}.{kind}"]
        layer, part = name.removeprefix("transformer.h.").removesuffix(f".{kind}").split(".", 1)
        prefix = f"model.layers.{layer}"
        if part == "mixer.Wqkv":
            parts = [f"{prefix}.self_attn.{letter}_proj.{kind}" for letter in "qkv"]
            return np.concatenate([self.new_arrays[part] for part in parts])
        new = {"ln": "input_layernorm", "mixer.out_proj": "self_attn.dense"}.get(part, part)
        return self.new_arrays[f"{prefix}.{new}.{kind}"]


@pytest.mark.parametrize("name", ["phi_half_rotary", "phi_two_fifths_rotary"])
@pytest.mark.parametrize("recipe", ["fp32", "int4"])
def test_old_checkpoints_become_the_same_graph_and_the_same_bytes(tmp_path, name, recipe):
    written = []
    for kind in (TinyModel, OldModel):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        with WeightFile(folder / "model.onnx.data") as weights:
            builder = OnnxBuilder(weights, Recipe.parse(recipe), 64)
            kind(load_case(name)).forward(builder)
            graph = builder.finish("test").SerializeToString()
        written.append((graph, (folder / "model.onnx.data").read_bytes()))
    assert written[0] == written[1]


def test_an_old_checkpoint_needs_its_own_keys():
    with pytest.raises(ConfigurationError, match="rotary_dim"):
        configured({key: value for key, value in PHI_2_OLD.items() if key != "rotary_dim"})


# Scores beyond float16


class LargeScores(TinyModel):
    """Queries and keys so large that their products do not fit float16, while weights do."""

    def weight(self, name: str) -> Weight:
        plain = super().weight(name)
        if plain.role in FLOAT_ROLES:
            return plain
        factor = 200 if name.endswith(("q_proj.weight", "k_proj.weight")) else 1
        array = (plain.source.read() * factor).astype(np.float16).astype(np.float32)
        return dataclasses.replace(plain, source=ArraySource(array))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_scores_beyond_float16_stay_finite_and_right(tmp_path, runtime):
    case = load_case("phi_half_rotary")
    model = LargeScores(case)
    reference = Watching(np.asarray([case.sequences[0]]))
    model.forward(reference)
    assert reference.largest_score > 10 * 65504
    logits = step(built(runtime, model, tmp_path, "fp16"), 0, case.sequences[0], 0)
    assert np.isfinite(logits).all()
    # Such scores make attention a choice of one token: near-ties apart, nothing else differs.
    assert np.abs(logits - reference.logits[0, -1]).max() < 1e-2


class Watching(NumpyBuilder):
    """Keeps the largest product of a query and a key of one head."""

    largest_score = 0.0

    def attention(self, query_key_value, attention):
        query, key, _ = np.split(heads_first(query_key_value, attention.head_size), 3, axis=1)
        score = float(np.abs(query @ key.transpose(0, 1, 3, 2)).max())
        self.largest_score = max(self.largest_score, score)
        return super().attention(query_key_value, attention)


# Scores


def test_a_scoring_head_gives_its_labels_and_reads_no_vocabulary():
    case = load_case("phi_score")
    model = TinyModel(case)
    assert model.configuration.labels == ("correct",)
    assert model.configuration.outputs == 1
    assert model.specifications["score.weight"].shape == (1, 128)
    assert not any(name.startswith("lm_head") for name in model.specifications)
    assert model.definition.ignored("lm_head.weight")

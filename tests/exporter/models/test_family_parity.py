"""Encoders and encoder-decoders: the numpy reference against transformers, counts, refusals."""

import numpy as np
import pytest
from tiny_checkpoint import DATA
from tiny_families import (
    ENCODER_DECODERS,
    ENCODERS,
    TinyEncoder,
    TinyEncoderDecoder,
    on_the_left,
)

from edgewise.exporter.graph.numpy_builder import NumpyBuilder, NumpyCache
from edgewise.exporter.graph.numpy_encoder import NumpyEncoderBuilder
from edgewise.exporter.graph.relative_positions import RelativeBuckets
from edgewise.exporter.models import (
    family_of,
    find_model,
    model_types,
)
from edgewise.exporter.models.decoder import ConfigurationError
from edgewise.runtime.backends.onnx_encoder import mask_of
from edgewise.runtime.padded_rows import in_front

TOLERANCE = 1e-4
OFFSETS = np.arange(-300, 301)


def encoded(model):
    builder = NumpyEncoderBuilder(model.ids, model.mask, getattr(model, "types", None))
    (model.forward if isinstance(model, TinyEncoder) else model.encode)(builder)
    return builder


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_equals_transformers_on_padded_rows(name):
    model = TinyEncoder(name)
    outputs = encoded(model).outputs
    for part, expected in model.expected().items():
        assert np.ptp(expected) > 0.5  # numbers that are all alike would prove nothing
        actual = outputs[part].reshape(outputs[part].shape[0], -1, expected.shape[-1])
        difference = np.abs(actual - expected.reshape(actual.shape))
        real = model.mask > 0 if actual.shape[1] > 1 else np.ones((2, 1), bool)
        assert difference[real].max() < TOLERANCE


@pytest.mark.parametrize("name", ENCODERS)
def test_padding_changes_nothing(name):
    model = TinyEncoder(name)
    together = encoded(model).outputs
    length = len(model.content["sequences"][1])
    alone = NumpyEncoderBuilder(model.ids[1:, :length], None, model.types[1:, :length])
    model.forward(alone)
    for part, values in alone.outputs.items():
        assert np.abs(together[part][1:, : values.shape[1]] - values).max() < 1e-5


def test_padding_before_an_encoders_tokens_is_refused():
    model = TinyEncoder("roberta_features")
    with pytest.raises(ValueError, match="pad encoders on the right"):
        NumpyEncoderBuilder(model.ids, model.mask[:, ::-1])


@pytest.mark.parametrize("name", ENCODERS)
def test_rows_padded_on_the_left_equal_transformers(name):
    model = TinyEncoder(name)
    left_mask = on_the_left(model.mask, model.mask)
    rows = in_front(on_the_left(model.ids, model.mask, fill=7), left_mask)
    types = rows.front(on_the_left(model.types, model.mask, fill=1))
    builder = NumpyEncoderBuilder(rows.token_ids, mask_of(rows.counts, model.ids.shape[1]), types)
    model.forward(builder)
    for part, expected in model.expected().items():
        actual = builder.outputs[part].reshape(expected.shape)
        if expected.ndim == 3 and expected.shape[1] > 1:
            actual = rows.back(actual)[left_mask > 0]
            expected = on_the_left(expected, model.mask)[left_mask > 0]  # noqa: PLW2901 - moved
        assert np.abs(actual - expected).max() < TOLERANCE


def test_more_tokens_than_positions_are_refused():
    model = TinyEncoder("roberta_features")
    with pytest.raises(ValueError, match=r"49 tokens were given.*positions for 48"):
        model.forward(NumpyEncoderBuilder(np.full((1, 49), 7)))


@pytest.mark.parametrize(
    ("kind", "bias", "decoder"),
    [
        ("bert", "cls.predictions.bias", "cls.predictions.decoder"),
        ("roberta", "lm_head.bias", "lm_head.decoder"),
        ("distilbert", "vocab_projector.bias", "vocab_projector"),
    ],
)
def test_a_decoder_of_words_that_is_not_tied_is_read(kind, bias, decoder):
    tied = TinyEncoder(f"{kind}_masked_language_model")
    untied = TinyEncoder(tied.name, changes={"tie_word_embeddings": False})
    new = {f"{decoder}.weight", f"{decoder}.bias"}
    assert untied.specifications.keys() ^ tied.specifications.keys() == new ^ {bias}
    assert untied.definition.ignored(bias) or bias in untied.specifications
    embedding = untied.arrays[f"{kind}.embeddings.word_embeddings.weight"]
    untied.arrays[f"{decoder}.weight"] = embedding[::-1].copy()
    untied.arrays[f"{decoder}.bias"] = tied.arrays[bias][::-1].copy()
    logits, expected = (encoded(model).outputs["logits"] for model in (untied, tied))
    assert np.abs(logits - expected[..., ::-1]).max() < 1e-5


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_both_sides_equal_transformers(name):
    model = TinyEncoderDecoder(name)
    expected = model.expected()
    builder = encoded(model)
    states = builder.outputs["encoder_hidden_states"]
    real = model.mask > 0
    assert np.abs(states - expected["encoder_hidden_states"])[real].max() < TOLERANCE
    decoder = NumpyBuilder(model.targets, encoder=builder.states)
    model.decode(decoder)
    assert np.ptp(expected["logits"]) > 1
    assert np.abs(decoder.logits - expected["logits"]).max() < TOLERANCE


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_cached_steps_equal_one_pass_over_the_same_cross_keys(name):
    model = TinyEncoderDecoder(name)
    states, expected = encoded(model).states, model.expected()["logits"]
    cache, at = NumpyCache(), 0
    for size in (1, 7, *[1] * 12):
        step = NumpyBuilder(model.targets[:, at : at + size], cache, encoder=states)
        model.decode(step)
        assert np.abs(step.logits - expected[:, at : at + size]).max() < TOLERANCE
        at += size
    assert cache.length == model.targets.shape[1]


def test_a_decoder_without_its_encoder_is_refused():
    model = TinyEncoderDecoder(ENCODER_DECODERS[0])
    with pytest.raises(ValueError, match="encoder"):
        model.decode(NumpyBuilder(model.targets))


@pytest.mark.parametrize(("count", "largest"), [(32, 128), (16, 32)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_those_of_the_published_function(count, largest, bidirectional):
    with np.load(DATA / "states" / "t5_buckets.npz", allow_pickle=False) as stored:
        expected = stored[f"{count}_{largest}_{int(bidirectional)}"]
    assert np.array_equal(RelativeBuckets(count, largest, bidirectional).of(OFFSETS), expected)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_near_buckets_are_distances_and_far_ones_grow(bidirectional):
    buckets = RelativeBuckets(32, 128, bidirectional)
    side = 16 if bidirectional else 32
    behind = buckets.of(-np.arange(301))
    assert behind[: side // 2].tolist() == list(range(side // 2))
    assert (np.diff(behind) >= 0).all()
    assert set(behind[128:].tolist()) == {side - 1}
    ahead = buckets.of(np.arange(1, 301))
    assert np.array_equal(ahead, behind[1:] + 16 if bidirectional else np.zeros(300))


BERT_BASE = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "architectures": ["BertForMaskedLM"],
}


def flan_t5(width, inner, heads, layers):
    return {
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": width,
        "d_kv": 64,
        "d_ff": inner,
        "num_heads": heads,
        "num_layers": layers,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }


ROBERTA_BASE = BERT_BASE | {
    "model_type": "roberta",
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}
XLM_ROBERTA_BASE = ROBERTA_BASE | {"model_type": "xlm-roberta", "vocab_size": 250002}
DISTILBERT_BASE = {
    "model_type": "distilbert",
    "vocab_size": 30522,
    "dim": 768,
    "n_layers": 6,
    "n_heads": 12,
    "hidden_dim": 3072,
    "activation": "gelu",
    "max_position_embeddings": 512,
}


def parameters(definition, config):
    tensors = definition.tensors(definition.configuration(config))
    return sum(tensor.parameters for tensor in tensors.values())


@pytest.mark.parametrize(
    ("architecture", "count"),
    [
        ("BertModel", 109_482_240 - 768 * 769),  # published with the pooler
        ("BertForSequenceClassification", 109_483_778),
    ],
)
def test_parameter_counts_of_berts_heads(architecture, count):
    config = BERT_BASE | {"architectures": [architecture]}
    assert parameters(find_model("bert"), config) == count


@pytest.mark.parametrize(
    ("config", "architecture", "count"),
    [
        (ROBERTA_BASE, "RobertaForSequenceClassification", 124_647_170),
        (ROBERTA_BASE, "RobertaForTokenClassification", 124_055_040 + 2 * 769),
        (XLM_ROBERTA_BASE, "XLMRobertaModel", 277_453_056),
        (XLM_ROBERTA_BASE, "XLMRobertaForMaskedLM", 278_295_186),
        (DISTILBERT_BASE, "DistilBertModel", 66_362_880),
        (DISTILBERT_BASE, "DistilBertForSequenceClassification", 66_955_010),
    ],
)
def test_parameter_counts_of_other_heads(config, architecture, count):
    config = config | {"architectures": [architecture]}
    assert parameters(find_model(config["model_type"]), config) == count


def test_roberta_has_512_positions_of_514():
    config = ROBERTA_BASE | {"architectures": ["RobertaModel"]}
    configuration = find_model("roberta").configuration(config)
    assert (configuration.position_offset, configuration.context_length) == (2, 512)


def test_labels_of_tokens_are_those_of_the_configuration():
    model = TinyEncoder("roberta_token_classification")
    assert model.configuration.labels == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (ROBERTA_BASE, {"architectures": ["RobertaForQuestionAnswering"]}, "RobertaForQuestion"),
        (ROBERTA_BASE, {"architectures": ["RobertaForCausalLM"]}, "RobertaForCausalLM"),
        (ROBERTA_BASE, {"pad_token_id": None, "architectures": ["RobertaModel"]}, "pad_token_id"),
        (DISTILBERT_BASE, {"architectures": ["DistilBertForMultipleChoice"]}, "MultipleChoice"),
        (DISTILBERT_BASE, {"dim": None}, "'dim'"),
    ],
)
def test_what_other_encoders_can_not_be_is_refused(config, change, message):
    with pytest.raises(ConfigurationError, match=message):
        find_model(config["model_type"]).configuration(config | change)


def test_ul2_without_a_word_on_it_is_tied_and_scaled():
    config = flan_t5(4096, 16384, 16, 32) | {"feed_forward_proj": "gated-silu"}
    del config["tie_word_embeddings"]
    configuration = find_model("t5").configuration(config)
    assert configuration.tied_head
    assert configuration.head_scale == pytest.approx(1 / 64)
    assert configuration.activation == "silu"


@pytest.mark.parametrize(("scaled", "factor"), [(True, 512**-0.5), (False, 1)])
def test_transformers_5_tells_under_another_name_whether_t5_ties_its_head(scaled, factor):
    config = flan_t5(512, 1024, 6, 8) | {"tie_word_embeddings": True}
    configuration = find_model("t5").configuration(config | {"scale_decoder_outputs": scaled})
    assert configuration.tied_head == scaled
    assert configuration.head_scale == pytest.approx(factor)
    assert not find_model("mt5").configuration(config).tied_head


SLADE = {
    "model_type": "bart",
    "architectures": ["BartForConditionalGeneration"],
    "vocab_size": 8000,
    "d_model": 1024,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "max_position_embeddings": 1024,
}


@pytest.mark.parametrize(("scale", "factor", "forced"), [(False, 1.0, None), (True, 32.0, 0)])
def test_what_bart_declares(scale, factor, forced):
    change = {"scale_embedding": scale, "forced_bos_token_id": forced, "forced_eos_token_id": 2}
    configuration = find_model("bart").configuration(SLADE | change)
    assert configuration.embedding_scale == factor
    assert configuration.start_token_id == 2
    assert configuration.forced_first_token_id == forced
    assert configuration.forced_last_token_id == 2
    assert (configuration.position_offset, configuration.context_length) == (2, 1024)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["BartForSequenceClassification"]}, "BartForSequenceClassification"),
        ({"decoder_attention_heads": 8}, r"encoder_attention_heads is 16.*is 8"),
        ({"decoder_ffn_dim": 2048}, "decoder_ffn_dim is 2048"),
        ({"d_model": 1000}, "multiple of encoder_attention_heads"),
        ({"activation_function": "mish"}, "activation_function is 'mish'"),
        ({"max_position_embeddings": None}, "'max_position_embeddings'"),
    ],
)
def test_what_bart_can_not_be_is_refused(change, message):
    with pytest.raises(ConfigurationError, match=message):
        find_model("bart").configuration(SLADE | change)


def test_a_head_of_barts_own_is_read():
    tied = TinyEncoderDecoder("bart")
    untied = TinyEncoderDecoder("bart", changes={"tie_word_embeddings": False})
    assert untied.specifications.keys() - tied.specifications.keys() == {"lm_head.weight"}
    untied.arrays["lm_head.weight"] = tied.arrays["model.shared.weight"][::-1].copy()
    bias = tied.arrays["final_logits_bias"]
    logits, expected = (decoded(model) for model in (untied, tied))
    assert np.abs((logits - bias) - (expected - bias)[..., ::-1]).max() < 1e-5


def decoded(model):
    decoder = NumpyBuilder(model.targets, encoder=encoded(model).states)
    model.decode(decoder)
    return decoder.logits


def test_mt5_is_version_1_1_without_a_word_on_it():
    config = flan_t5(512, 1024, 6, 8) | {"vocab_size": 250112}
    bare = {name: value for name, value in config.items() if name != "tie_word_embeddings"}
    del bare["feed_forward_proj"]
    configuration = find_model("mt5").configuration(bare | {"model_type": "mt5"})
    assert configuration == find_model("t5").configuration(config)
    assert parameters(find_model("mt5"), bare) == 300_176_768  # of mT5-small, as published


def test_families_do_not_mix():
    assert {"bert", "roberta", "distilbert"} <= set(model_types("encoder"))
    assert {"bart", "t5", "mt5"} <= set(model_types("encoder_decoder"))
    assert not {"bert", "roberta", "distilbert", "bart", "t5"} & set(model_types("decoder"))
    assert {"bert", "t5", "llama"} < set(model_types())
    assert family_of("t5") == "encoder_decoder"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"architectures": ["BertForQuestionAnswering"]}, "BertForQuestionAnswering"),
        ({"hidden_act": "mish"}, "mish"),
        ({"num_attention_heads": 11}, "multiple"),
        ({"is_decoder": True}, "is_decoder"),
    ],
)
def test_what_bert_can_not_be_is_refused(change, message):
    with pytest.raises(ConfigurationError, match=message):
        find_model("bert").configuration(BERT_BASE | change)


def test_labels_with_a_gap_are_refused():
    config = BERT_BASE | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "a", "2": "b"},
    }
    with pytest.raises(ConfigurationError, match="gap"):
        find_model("bert").configuration(config)


def test_odd_buckets_are_refused():
    config = flan_t5(512, 1024, 6, 8) | {"relative_attention_num_buckets": 30}
    with pytest.raises(ConfigurationError, match="multiple of 4"):
        find_model("t5").configuration(config)

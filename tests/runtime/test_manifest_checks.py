"""Contradictions between family, tasks and what they need."""

from dataclasses import replace

import pytest

from edgewise.runtime.bundle import (
    BundleError,
    BundleFile,
    CacheLayout,
    ImageLayout,
    SpecialTokens,
    decoder_cache,
)

ENCODER_TOKENS = SpecialTokens(1, (2,), 0, False, "<s>", "</s>", mask=4, separator=3)
DECODER_TOKENS = SpecialTokens(None, (2,), 0, False, None, "</s>", start=0)
IMAGE = ImageLayout(24, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "mean", 9)
EMBED = {
    "family": "encoder",
    "tasks": ("embed",),
    "cache": None,
    "pooling": "mean",
    "outputs": ("hidden_states", "mean"),
    "tokens": ENCODER_TOKENS,
}
CLASSIFY = EMBED | {
    "tasks": ("classify",),
    "pooling": None,
    "outputs": ("logits",),
    "labels": ("no", "yes"),
}
FILL = EMBED | {"tasks": ("fill-mask",), "pooling": None, "outputs": ("logits",)}
TRANSLATE = {"family": "encoder_decoder", "source_length": 32, "tokens": DECODER_TOKENS}
SEE = {"family": "vision_language", "image": IMAGE}


def files_with(manifest_maker, *roles):
    more = (BundleFile(role, f"{role}.onnx", 1, "0" * 64) for role in roles)
    return (*manifest_maker().files, *more)


def test_every_family_has_a_manifest_that_holds(manifest_maker):
    for fields in (
        EMBED,
        EMBED | {"pooling": "first"},
        EMBED | {"tasks": ("fill-mask", "embed"), "outputs": ("logits", "hidden_states", "mean")},
        CLASSIFY,
        CLASSIFY | {"tasks": ("token-classify",)},
        FILL,
        TRANSLATE | {"runtime": "tflite"},
        TRANSLATE | {"runtime": "tflite", "tokens": replace(DECODER_TOKENS, forced_last=99)},
        TRANSLATE | {"files": files_with(manifest_maker, "encoder")},
        SEE | {"files": files_with(manifest_maker, "vision", "token_embedding")},
        TRANSLATE | {"runtime": "tflite", "prefixes": {"summarization": "summarize: "}},
        {"tasks": ("score",), "labels": ("right",)},
        {"sampled_vocabulary": 90, "stop": ("Q:", "\n\n")},
    ):
        assert manifest_maker(**fields).format_version == 3


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"tasks": ()}, "tasks must hold at least one task"),
        ({"tasks": ("generate", "generate")}, "tasks must hold at least one task, each once"),
        ({"tasks": ("embed",)}, "family is decoder, which does not embed; accepted: generate"),
        ({"tasks": ("score",)}, "the task score needs labels"),
        ({"cache": None}, "family is decoder, which needs a cache"),
        ({"cache": CacheLayout(0, 1, 8, "float32")}, "cache.layers is 0"),
        (
            {"runtime": "tflite", "cache": CacheLayout(2, 1, 8, "float32", update="concatenated")},
            "cache.update is concatenated, which no decoder for tflite does; accepted: in_place",
        ),
        ({"source_length": 8}, "family is decoder, which has no source_length"),
        ({"outputs": ("states",)}, "the task generate needs the output logits"),
        ({"outputs": ("logits", "logits")}, "outputs must hold at least one name, each once"),
        ({"sampled_vocabulary": 0}, "sampled_vocabulary is 0, accepted: 1 to 100"),
        ({"sampled_vocabulary": 101}, "sampled_vocabulary is 101"),
        ({"tokens": replace(DECODER_TOKENS, forced_first=100)}, "forced_first is token 100, the"),
        ({"stop": ("",)}, "stop holds ''"),
        ({"prefixes": {"sum": "sum up: "}}, "prefixes are there, which no decoder has"),
        ({"stop": ("x",) * 33}, "stop has 33 texts"),
        ({"image": IMAGE}, "family is decoder, but image is there"),
        (EMBED | {"cache": CacheLayout(2, 1, 8, "float32")}, "family is encoder, which has no"),
        (EMBED | {"tasks": ("generate",)}, "family is encoder, which does not generate"),
        (EMBED | {"pooling": None}, "the task embed needs pooling"),
        (EMBED | {"outputs": ("hidden_states",)}, "pooling is mean, which needs the output mean"),
        (
            EMBED | {"pooling": "first", "outputs": ("mean",)},
            "pooling is first, which needs the output hidden_states",
        ),
        (EMBED | {"tokens": DECODER_TOKENS}, "needs tokens.beginning and tokens.separator"),
        (EMBED | {"labels": ("a",)}, "there are labels, but tasks holds none"),
        (CLASSIFY | {"labels": ()}, "the task classify needs labels"),
        (CLASSIFY | {"labels": ("a", "")}, "the task classify needs labels, none of them empty"),
        (CLASSIFY | {"labels": ("a", "a")}, "labels holds 'a' more than once"),
        (CLASSIFY | {"pooling": "mean"}, "there is pooling, but tasks does not hold embed"),
        (CLASSIFY | {"outputs": ("mean",)}, "the task classify needs the output logits"),
        (
            FILL | {"tokens": SpecialTokens(1, (2,), 0, False, None, None, separator=3)},
            "the task fill-mask needs tokens.mask",
        ),
        (
            FILL | {"tokens": SpecialTokens(1, (), 0, False, None, None, mask=100, separator=3)},
            "mask is token 100, the vocabulary has 100",
        ),
        (TRANSLATE, "no file has the role encoder"),
        (TRANSLATE | {"source_length": None}, "which needs a source_length"),
        (TRANSLATE | {"source_length": 0}, "source_length is 0"),
        (TRANSLATE | {"cache": None}, "family is encoder_decoder, which needs a cache"),
        (
            TRANSLATE | {"tokens": SpecialTokens(1, (2,), 0, False, None, None)},
            "which needs tokens.start and tokens.end",
        ),
        (SEE, "no file has the role vision; no file has the role token_embedding"),
        (SEE | {"image": None}, "family is vision_language, but image is not there"),
        (SEE | {"context_length": 9}, "image.tokens is 9, which leaves nothing"),
        (
            SEE | {"image": ImageLayout(24, (0.5,), (1.0, 0.0, 1.0), "mean", 9, "")},
            "three numbers, those of std above 0; image.marker is empty",
        ),
    ],
)
def test_what_a_family_or_a_task_lacks_is_said(manifest_maker, fields, match):
    with pytest.raises(BundleError, match=match):
        manifest_maker(**fields)


def test_an_encoder_has_no_cache_to_ask_for(manifest_maker):
    assert decoder_cache(manifest_maker()) == CacheLayout(2, 1, 8, "float32")
    with pytest.raises(BundleError, match=r"is an encoder.*it was made to embed"):
        decoder_cache(manifest_maker(**EMBED))

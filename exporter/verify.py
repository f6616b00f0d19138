"""Holds an exported graph against the numpy reference before it is published.

Workflow: a few texts are encoded, the reference computes over the checkpoint's own weights what the
exported graph gives for them, and the results are compared (comparison.py). How they are given
depends on the family:

- A decoder takes the first half of a text as a prompt and the rest token by token through its
  cache, as a device will. What is compared is therefore prefill, cached decode and quantization at
  once.
- An encoder-decoder reads a text, and writes it token by token behind a beginning that is given.
- A vision-language model takes the texts as a decoder does, and images: what it makes of one is
  compared as a whole, and part of it stands in a text that is given as vectors.
- An encoder takes beginnings of the texts of several lengths together, so that padding counts too;
  one that guesses words has masks in them and is asked for these alone.

Of a graph that another program traced, the reference is that graph as it was traced, run by its
engine over the checkpoint's weights.

Rules: the reference never sees a quantized weight; a gate is a measured figure, kept with the
recipe's precision, and what fails it is not published unless the user insists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.comparison import GATES, Comparison, Verification
from edgewise.exporter.description import special_tokens
from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.numpy_encoder import NumpyEncoderBuilder
from edgewise.exporter.graph.numpy_image import NumpyImageBuilder
from edgewise.exporter.models.encoder import HIDDEN_STATES, LOGITS, MEAN
from edgewise.exporter.models.vision_language import (
    EMBEDDINGS,
    IMAGE_FEATURES,
    VisionLanguageConfiguration,
)
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.targets import Loaded, Steps
from edgewise.runtime.backends.protocol import (
    EncoderBackend,
    EncoderDecoderBackend,
    VisionLanguageBackend,
)
from edgewise.runtime.bundle import Manifest, SpecialTokens

TEXTS = (
    """The meter in the greenhouse reads twenty-three degrees, and the vents on the south side \
have been open since noon. If the wind turns before evening, close them and send a short report to \
the gardener, who will decide whether the heating has to run during the night.""",
    """Question: A train leaves the station at 9:15 and arrives at 11:45. How long does it take?
Answer: From 9:15 to 11:15 are two hours, and from 11:15 to 11:45 are another thirty minutes, so \
the journey takes two hours and thirty minutes in all.""",
    """def average(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)

print(average([1, 2, 3, 4]))  # prints 2.5, the arithmetic mean of the list""",
    """Water is a substance made of hydrogen and oxygen. It covers most of the surface of \
the earth, falls from the clouds as rain and snow, and is needed by every plant and animal that is \
known to us. In its solid form it is called ice, and it floats on the liquid.""",
)
MOST_TOKENS = 48  # a text, prompt and answer half together
PARTS = (0.25, 0.5, 0.75, 1.0)  # of a text that an encoder reads
IMAGE_TOKENS = 16  # of an image, that stand in a text
MASKED_EVERY = 6  # tokens; BERT was trained with 15% of them masked
# A text that a classifier was not made for may be as much of one label as of another: logits as
# near as this are probabilities within a tenth of each other, and which is higher says nothing.
LABEL_TIE = 0.1
FORCED_TOKENS = 8  # of an answer, given at once; the rest is written token by token

Ids = NDArray[np.int64]
Array = NDArray[np.float32]


def verify(
    checkpoint: Checkpoint,
    plan: ExportPlan,
    backend: Loaded,
    manifest: Manifest,
    reference: Loaded | None = None,
) -> Verification:
    """Compare an exported graph with the reference.

    Args:
        checkpoint: Where the reference takes its weights.
        plan: What was exported.
        backend: The exported graph, loaded; its capacity limits how long the texts are.
        manifest: Of the bundle, still without figures.
        reference: Another engine that gives what is expected; None for the definition over numpy.

    Returns:
        The figures, whether they pass the gate or not.
    """
    comparison = Comparison()
    match plan.family:
        case "encoder":
            _compare_encoder(
                comparison,
                checkpoint,
                plan,
                cast(EncoderBackend, backend),
                manifest,
                cast(EncoderBackend | None, reference),
            )
        case "encoder_decoder":
            engine = cast(EncoderDecoderBackend, backend)
            pair = cast(EncoderDecoderBackend | None, reference)
            _compare_sequences(comparison, checkpoint, plan, engine, pair)
        case "vision_language":
            _compare_decoder(comparison, checkpoint, plan, cast(Steps, backend))
            _compare_images(comparison, checkpoint, plan, cast(VisionLanguageBackend, backend))
        case "decoder":
            other = cast(Steps | None, reference)
            _compare_decoder(comparison, checkpoint, plan, cast(Steps, backend), other)
    return comparison.result(GATES[plan.gate_bits])


def verification_ids(
    checkpoint: Checkpoint,
    vocabulary_size: int,
    most_tokens: int = MOST_TOKENS,
    *,
    framed: bool = True,
) -> Ids:
    """Encode the texts and cut them to one length.

    Args:
        checkpoint: Whose tokenizer encodes.
        vocabulary_size: Ids beyond it are folded into it.
        most_tokens: Of a text.
        framed: Whether the tokenizer puts its own tokens around them.

    Returns:
        int64 [texts, at most most_tokens].
    """
    from tokenizers import Tokenizer  # noqa: PLC0415 - heavy, and only an export needs it here

    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoded = [tokenizer.encode(text, add_special_tokens=framed).ids for text in TEXTS]
    length = min(most_tokens, max(2, min(len(ids) for ids in encoded)))
    # A tokenizer that knows almost nothing of the texts still has ids to compare.
    rows = [(ids * length)[:length] if ids else list(range(length)) for ids in encoded]
    return np.asarray(rows, np.int64) % vocabulary_size


def _compare_decoder(
    comparison: Comparison,
    checkpoint: Checkpoint,
    plan: ExportPlan,
    backend: Steps,
    reference: Steps | None = None,
) -> None:
    token_ids = verification_ids(
        checkpoint, plan.configuration.vocabulary_size, min(MOST_TOKENS, backend.capacity)
    )
    prompt_length = max(1, token_ids.shape[1] // 2)
    if reference is None:
        builder = NumpyBuilder(token_ids, last_positions=token_ids.shape[1] - prompt_length + 1)
        plan.describe("forward", builder, checkpoint)
        texts = list(builder.logits)
    else:
        texts = [np.stack(list(_logits_of(reference, ids, prompt_length))) for ids in token_ids]
    for ids, expected in zip(token_ids, texts, strict=True):
        _add(comparison, expected, list(_logits_of(backend, ids, prompt_length)))


def _compare_images(
    comparison: Comparison,
    checkpoint: Checkpoint,
    plan: ExportPlan,
    backend: VisionLanguageBackend,
) -> None:
    configuration = plan.configuration
    if not isinstance(configuration, VisionLanguageConfiguration):
        raise TypeError(f"{plan.model_id} has no vision tower")
    pixels = gratings(configuration.vision.image_size)
    vision = NumpyImageBuilder(pixels)
    plan.describe("see", vision, checkpoint)
    seen = backend.see(pixels)
    for expected, actual in zip(vision.outputs[IMAGE_FEATURES], seen, strict=True):
        comparison.add_vector(expected.ravel(), actual.ravel())
    longest = max(2, min(MOST_TOKENS, backend.capacity) - IMAGE_TOKENS)
    texts = verification_ids(checkpoint, configuration.vocabulary_size, longest)[: len(pixels)]
    rows = NumpyEncoderBuilder(texts)
    plan.describe("embed", rows, checkpoint)
    given = _around(vision.outputs[IMAGE_FEATURES], rows.outputs[EMBEDDINGS])
    prompt_length = given.shape[1] - texts.shape[1] // 2
    reference = NumpyBuilder(given, last_positions=given.shape[1] - prompt_length + 1)
    plan.describe("forward", reference, checkpoint)
    prompts = _around(seen, backend.embed(texts))[:, :prompt_length]
    start = np.zeros(1, np.int32)
    for prompt, ids, expected in zip(prompts, texts, reference.logits, strict=True):
        actual = [backend.step_vectors(0, prompt[None], start)[0].copy()]
        for position in range(prompt_length, given.shape[1]):
            token = ids[None, None, position - given.shape[1]]
            past = np.full(1, position, np.int32)
            actual.append(backend.step(0, token, past)[0].copy())
        _add(comparison, expected, actual)


def _around(features: Array, texts: Array) -> Array:
    """Put the first vectors of images between the first and second vector of texts."""
    return np.concatenate([texts[:, :1], features[:, :IMAGE_TOKENS], texts[:, 1:]], axis=1)


def gratings(side: int) -> Array:
    """Return two images of stripes, one a colour, as a vision graph takes them.

    Args:
        side: Pixels of their sides.

    Returns:
        float32 [2, 3, side, side], in the range that images have.
    """
    row, column = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    angles = [2 * np.pi * waves * row / side for waves in (1, 3, 5)]
    more = [2 * np.pi * (waves * column + row) / side for waves in (2, 4, 7)]
    images: Array = (1.5 * np.sin(np.asarray([angles, more]))).astype(np.float32)
    return images


def _compare_sequences(
    comparison: Comparison,
    checkpoint: Checkpoint,
    plan: ExportPlan,
    backend: EncoderDecoderBackend,
    reference: EncoderDecoderBackend | None = None,
) -> None:
    tokens = special_tokens(checkpoint.tokenizer, plan)
    longest = min(MOST_TOKENS, backend.capacity - 1, backend.source_capacity - 1)
    size = plan.configuration.vocabulary_size
    texts = verification_ids(checkpoint, size, longest, framed=False)
    column = np.ones((len(texts), 1), np.int64)
    sources = np.concatenate([texts, column * tokens.end[0]], axis=1)
    targets = np.concatenate([column * (tokens.start or 0), texts], axis=1)
    forced = min(FORCED_TOKENS, targets.shape[1])
    if reference is None:
        encoder = NumpyEncoderBuilder(sources)
        plan.describe("encode", encoder, checkpoint)
        decoder = NumpyBuilder(
            targets, encoder=encoder.states, last_positions=targets.shape[1] - forced + 1
        )
        plan.describe("decode", decoder, checkpoint)
        texts_logits = list(decoder.logits)
    else:
        texts_logits = [
            np.stack(_answered(reference, *pair, forced))
            for pair in zip(sources, targets, strict=True)
        ]
    for source, target, expected in zip(sources, targets, texts_logits, strict=True):
        _add(comparison, expected, _answered(backend, source, target, forced))


def _answered(backend: EncoderDecoderBackend, source: Ids, target: Ids, forced: int) -> list[Array]:
    """Read a source; return the logits behind the answer's beginning and each token after it."""
    backend.read_source(0, source[None], np.full(1, len(source), np.int32))
    return list(_logits_of(backend, target, forced))


def _compare_encoder(
    comparison: Comparison,
    checkpoint: Checkpoint,
    plan: ExportPlan,
    backend: EncoderBackend,
    manifest: Manifest,
    reference: EncoderBackend | None,
) -> None:
    masks = "fill-mask" in manifest.tasks
    size, longest = plan.configuration.vocabulary_size, min(MOST_TOKENS, backend.capacity - 2)
    texts = verification_ids(checkpoint, size, max(1, longest), framed=False)
    rows = [
        _framed(ids[: max(1, round(part * len(ids)))].tolist(), manifest.tokens, masks=masks)
        for ids in texts
        for part in PARTS
    ]
    counts = np.asarray([len(row) for row in rows], np.int32)
    token_ids = np.zeros((len(rows), counts.max()), np.int64)
    for row, ids in enumerate(rows):
        token_ids[row, : len(ids)] = ids
    mask = (np.arange(token_ids.shape[1]) < counts[:, None]).astype(np.int64)
    wanted: Mapping[str, Array]
    if reference is None:
        builder = NumpyEncoderBuilder(token_ids, mask)
        plan.describe("forward", builder, checkpoint)
        wanted = builder.outputs
    else:
        wanted = reference.encode(token_ids, counts)
    results = backend.encode(token_ids, counts)
    for row, count in enumerate(counts.tolist()):
        expected = {name: array[row, :count] for name, array in wanted.items()}
        actual = {name: array[row, :count] for name, array in results.items()}
        if manifest.pooling is not None:
            comparison.add_vector(
                _vector(expected, manifest.pooling), _vector(actual, manifest.pooling)
            )
        if LOGITS in expected:
            chosen = list(range(len(expected[LOGITS])))
            if masks:
                chosen = [place for place in chosen if rows[row][place] == manifest.tokens.mask]
            tie = LABEL_TIE if manifest.labels else 0.0
            _add(comparison, expected[LOGITS][chosen], list(actual[LOGITS][chosen]), tie)


def _framed(ids: list[int], tokens: SpecialTokens, *, masks: bool) -> list[int]:
    """Put an encoder's tokens around ids, and masks in place of some."""
    if masks and tokens.mask is not None:
        ids[::MASKED_EVERY] = [tokens.mask] * len(ids[::MASKED_EVERY])
    around = (tokens.beginning, tokens.separator)
    before, behind = ([] if token is None else [token] for token in around)
    return [*before, *ids, *behind]


def _vector(results: Mapping[str, Array], pooling: str) -> Array:
    """Return the vector of one text."""
    vector: Array = results[MEAN if pooling == "mean" else HIDDEN_STATES][0]
    return vector


def _add(
    comparison: Comparison, expected: Array, actual: Sequence[Array], tie: float = 0.0
) -> None:
    """Compare the logits of a text's positions, or, where each is one number, these together."""
    if expected.shape[-1] == 1:
        comparison.add_vector(expected.ravel(), np.concatenate(actual).ravel())
        return
    for expected_row, actual_row in zip(expected, actual, strict=True):
        comparison.add(expected_row, actual_row, tie=tie)


def _logits_of(backend: Steps, token_ids: Ids, prompt_length: int) -> Iterator[Array]:
    """Run a prompt and then token by token; yield the logits [vocabulary] after each."""
    past = np.zeros(1, np.int32)
    yield backend.step(0, token_ids[None, :prompt_length], past)[0].copy()
    for position in range(prompt_length, len(token_ids)):
        past[0] = position
        yield backend.step(0, token_ids[None, position : position + 1], past)[0].copy()

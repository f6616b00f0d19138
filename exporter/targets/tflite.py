"""The tflite target: model.tflite, which holds the weights and a graph for each signature.

A vision-language model has two files beside it, so that images need memory only where there are
some: vision.tflite with the graph "see", and embedding.tflite with embed_{tokens}.

| family | graphs |
|---|---|
| decoder | decode_{cache}, prefill_{tokens}, verify_{tokens} if asked for, for several sizes |
| encoder | encode_{tokens}, for several lengths |
| encoder-decoder | encode_{tokens} for the longest source, decode_{cache}, a short prefill |
| vision-language | as a decoder, of vectors |

Every graph of a decoder that attends to an encoder has the size of the encoder's built in, so a
model has one length of sources.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from edgewise.common.version import VERSION
from edgewise.exporter.checkpoint import Checkpoint
from edgewise.exporter.graph.tflite_builder import (
    EMBEDDINGS,
    ENCODER_TOKENS,
    LAST_TOKEN,
    POSITIONS,
    TfliteBuilder,
)
from edgewise.exporter.graph.tflite_cache import CACHE_NAMES, NEW_NAMES
from edgewise.exporter.graph.tflite_encoder import (
    TOKEN_COUNT,
    TOKEN_TYPES,
    TfliteEncoderBuilder,
    encoder_lengths,
)
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_image import TfliteImageBuilder
from edgewise.exporter.graph.tflite_lookup import LOOKUP_TOKENS, TfliteLookupBuilder
from edgewise.exporter.graph.tflite_operations import CROSS_NAMES, TOKEN_IDS
from edgewise.exporter.graph.tflite_signatures import answer_signatures, signatures
from edgewise.exporter.graph.tflite_weights import (
    LITERT,
    TFLITE_RUNTIME,
    Release,
    WeightStore,
)
from edgewise.exporter.plan import ExportPlan
from edgewise.exporter.targets import GraphNames, Loaded, Progress
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.cache_folder import FOLDER
from edgewise.runtime.engines import engine_factory

GRAPH_FILE = "model.tflite"
VISION_FILE, EMBEDDING_FILE = "vision.tflite", "embedding.tflite"
Described = Callable[[TfliteFile, WeightStore], None]


def files(plan: ExportPlan) -> tuple[tuple[str, str], ...]:
    """Return role and name of the files."""
    graph = ("graph", GRAPH_FILE)
    if plan.family != "vision_language":
        return (graph,)
    return (("vision", VISION_FILE), ("token_embedding", EMBEDDING_FILE), graph)


def names(plan: ExportPlan, checkpoint: Checkpoint) -> GraphNames:
    """Return what the builders call inputs and outputs."""
    if plan.family == "encoder":
        outline = plan.outline("forward", checkpoint)
        types = (TOKEN_TYPES,) if outline.has_token_types else ()
        return GraphNames((TOKEN_IDS, TOKEN_COUNT, *types), tuple(outline.outputs))
    outline = plan.outline("decode" if plan.family == "encoder_decoder" else "forward", checkpoint)
    takes_embeddings = plan.family == "vision_language"
    inputs = [EMBEDDINGS if takes_embeddings else TOKEN_IDS, POSITIONS, LAST_TOKEN]
    if outline.cross_layers:
        inputs.append(ENCODER_TOKENS)
        inputs += [
            name.format(layer=layer) for layer in outline.cross_layers for name in CROSS_NAMES
        ]
    return GraphNames(tuple(inputs), tuple(outline.outputs), CACHE_NAMES, NEW_NAMES)


def oldest_release(plan: ExportPlan) -> Release:
    """Return the runtime that the board has: 32-bit Arm has no wheels of ai-edge-litert."""
    userland = plan.profile.runtime_choice("tflite").userland
    return TFLITE_RUNTIME if userland == "armv7l" else LITERT


def minimum_versions(plan: ExportPlan) -> Mapping[str, str]:
    """Return the first ai-edge-litert that runs the graphs; none where either library does."""
    return {"ai-edge-litert": "2.3"} if oldest_release(plan) == LITERT else {}


def build(checkpoint: Checkpoint, plan: ExportPlan, folder: Path, progress: Progress) -> None:
    """Describe every graph, then write the files while weights stream by."""

    def see(model: TfliteFile, weights: WeightStore) -> None:
        builder = TfliteImageBuilder(model, weights)
        plan.describe("see", builder, checkpoint)
        builder.finish()

    def embed(model: TfliteFile, weights: WeightStore) -> None:
        for tokens in LOOKUP_TOKENS:
            builder = TfliteLookupBuilder(model, weights, tokens)
            plan.describe("embed", builder, checkpoint)
            builder.finish()

    def model_graphs(model: TfliteFile, weights: WeightStore) -> None:
        _add_model_graphs(checkpoint, plan, model, weights)

    described: Mapping[str, Described] = {
        VISION_FILE: see,
        EMBEDDING_FILE: embed,
        GRAPH_FILE: model_graphs,
    }
    for _, name in files(plan):
        model = TfliteFile()
        described[name](model, WeightStore(model, plan.recipe, oldest_release(plan)))
        model.add_metadata("edgewise", VERSION)
        model.write(folder / name, lambda done, total: progress("export", done, total))


def texts(checkpoint: Checkpoint, plan: ExportPlan) -> Mapping[str, tuple[str, bytes]]:
    """Return nothing: the file says all that a program besides ours could read."""
    del checkpoint, plan
    return {}


def load(bundle: Bundle, *, threads: int, capacity: int) -> Loaded:
    """Load the graphs by LiteRT, which packs the weights once for all of them, into a file."""
    loaded: Loaded = engine_factory(bundle.manifest)(bundle, threads=threads, capacity=capacity)
    return loaded


def finish(folder: Path) -> None:
    """Remove what was packed for this machine: it is no part of the bundle."""
    if (folder / FOLDER).exists():
        shutil.rmtree(folder / FOLDER)


def _add_model_graphs(
    checkpoint: Checkpoint, plan: ExportPlan, model: TfliteFile, weights: WeightStore
) -> None:
    """Describe what stands in model.tflite."""
    match plan.family:
        case "encoder":
            _add_encoders(
                "forward", encoder_lengths(plan.context_length), checkpoint, plan, model, weights
            )
        case "encoder_decoder":
            longest = plan.source_length or plan.context_length
            _add_encoders("encode", (longest,), checkpoint, plan, model, weights)
            for signature in answer_signatures(plan.context_length):
                builder = TfliteBuilder(
                    model, weights, signature, plan.context_length, encoder_tokens=longest
                )
                plan.describe("decode", builder, checkpoint)
                builder.finish()
        case _:
            takes_embeddings = plan.family == "vision_language"
            chosen = signatures(plan.context_length, oldest_release(plan), drafts=plan.drafts)
            for signature in chosen:
                builder = TfliteBuilder(
                    model,
                    weights,
                    signature,
                    plan.context_length,
                    takes_embeddings=takes_embeddings,
                    cache_scales=plan.cache_scales if plan.cache_dtype == "int8" else None,
                )
                plan.describe("forward", builder, checkpoint)
                builder.finish()


def _add_encoders(
    passing: str,
    lengths: tuple[int, ...],
    checkpoint: Checkpoint,
    plan: ExportPlan,
    model: TfliteFile,
    weights: WeightStore,
) -> None:
    for length in lengths:
        builder = TfliteEncoderBuilder(model, weights, length)
        plan.describe(passing, builder, checkpoint)
        builder.finish()

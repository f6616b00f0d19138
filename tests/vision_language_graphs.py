"""Tiny vision-language models built as graphs, and loaded by the runtime's own back ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tiny_vision_language import TinyVisionLanguage

from edgewise.exporter.graph.onnx_builder import OnnxBuilder
from edgewise.exporter.graph.onnx_image import OnnxImageBuilder
from edgewise.exporter.graph.onnx_lookup import OnnxLookupBuilder
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.tflite_builder import TfliteBuilder
from edgewise.exporter.graph.tflite_cache import CACHE_NAMES, NEW_NAMES
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_image import TfliteImageBuilder
from edgewise.exporter.graph.tflite_lookup import TfliteLookupBuilder
from edgewise.exporter.graph.tflite_signatures import Signature
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.runtime.backends.litert_vision_language import LitertVisionLanguageBackend
from edgewise.runtime.backends.onnx_vision_language import OnnxVisionLanguageBackend
from edgewise.runtime.manifest import CacheLayout

CONTEXT = 64
RUNTIMES = ("onnx", "tflite")
# Small graphs, so that short prompts cross every boundary.
DECODER_GRAPHS = (
    Signature(1, 8),
    Signature(1, CONTEXT),
    Signature(8, 0),
    Signature(8, 16),
    Signature(4, CONTEXT),
)
LOOKUPS = (1, 8)


def built(runtime: str, model: TinyVisionLanguage, folder: Path, recipe: str = "fp32") -> Any:
    """Write the graphs and load them with two slots; the tower gives its states too."""
    folder.mkdir(exist_ok=True)
    {"onnx": _build_onnx, "tflite": _build_tflite}[runtime](model, folder, Recipe.parse(recipe))
    loaded = {"onnx": OnnxVisionLanguageBackend, "tflite": LitertVisionLanguageBackend}[runtime]
    return loaded(opened(runtime, model, folder), threads=1, slots=2, capacity=CONTEXT)


def opened(runtime: str, model: TinyVisionLanguage, folder: Path) -> Any:
    """Return what a back end reads of a bundle."""
    c = model.configuration.text
    names = {
        "past_key_name": CACHE_NAMES[0],
        "past_value_name": CACHE_NAMES[1],
        "present_key_name": NEW_NAMES[0],
        "present_value_name": NEW_NAMES[1],
    }
    manifest = SimpleNamespace(
        cache=CacheLayout(
            c.layers,
            c.key_value_heads,
            c.head_size,
            "float32",
            **(names if runtime == "tflite" else {}),
        ),
        vocabulary_size=c.vocabulary_size,
        labels=(),
        execution_providers=("CPUExecutionProvider",),
        minimum_versions={},
    )
    return SimpleNamespace(
        path=folder, file=lambda role: folder / f"{role}.{runtime}", manifest=manifest
    )


def _build_onnx(model: TinyVisionLanguage, folder: Path, recipe: Recipe) -> None:
    with WeightFile(folder / "model.onnx.data") as weights:
        image = OnnxImageBuilder(weights, recipe)
        lookup = OnnxLookupBuilder(weights, recipe)
        decoder = OnnxBuilder(weights, recipe, CONTEXT, takes_embeddings=True)
        model.see(image)
        model.embed(lookup)
        model.forward(decoder)
        for role, builder in (("vision", image), ("token_embedding", lookup), ("graph", decoder)):
            graph = builder.finish("test")
            (folder / f"{role}.onnx").write_bytes(graph.SerializeToString())


def _build_tflite(model: TinyVisionLanguage, folder: Path, recipe: Recipe) -> None:
    files = {role: TfliteFile() for role in ("vision", "token_embedding", "graph")}
    image = TfliteImageBuilder(files["vision"], WeightStore(files["vision"], recipe))
    model.see(image)
    image.finish()
    weights = WeightStore(files["token_embedding"], recipe)
    for tokens in LOOKUPS:
        lookup = TfliteLookupBuilder(files["token_embedding"], weights, tokens)
        model.embed(lookup)
        lookup.finish()
    weights = WeightStore(files["graph"], recipe)
    for signature in DECODER_GRAPHS:
        decoder = TfliteBuilder(files["graph"], weights, signature, CONTEXT, takes_embeddings=True)
        model.forward(decoder)
        decoder.finish()
    for role, file in files.items():
        file.write(folder / f"{role}.tflite")

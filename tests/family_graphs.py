"""Tiny encoders and encoder-decoders built as graphs, and loaded by the runtime's own back ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tiny_families import TinyEncoder, TinyEncoderDecoder

from edgewise.exporter.graph.onnx_builder import OnnxBuilder
from edgewise.exporter.graph.onnx_encoder import OnnxEncoderBuilder
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.tflite_builder import TfliteBuilder
from edgewise.exporter.graph.tflite_encoder import TfliteEncoderBuilder
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_signatures import Signature
from edgewise.exporter.graph.tflite_weights import WeightStore
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.runtime.backends.litert_encoder import (
    LitertEncoderBackend,
    LitertEncoderDecoderBackend,
)
from edgewise.runtime.backends.onnx_encoder import OnnxEncoderBackend, OnnxEncoderDecoderBackend
from edgewise.runtime.manifest import CacheLayout, CacheType

CONTEXT = 64  # tokens of the decoder
ENCODER_LENGTHS = (16, 32)
DECODER_GRAPHS = (Signature(1, 8), Signature(1, CONTEXT), Signature(8, 0), Signature(8, CONTEXT))
RUNTIMES = ("onnx", "tflite")
Model = TinyEncoder | TinyEncoderDecoder


def build(runtime: str, model: Model, folder: Path, recipe: str = "fp32", **cache: Any) -> None:
    """Write encoder.onnx and decoder.onnx, or model.tflite; the rest is how a cache is kept."""
    folder.mkdir(exist_ok=True)
    write = {"onnx": _build_onnx, "tflite": _build_tflite}[runtime]
    write(model, folder, Recipe.parse(recipe), **cache)


def open_encoder(runtime: str, folder: Path) -> Any:
    if runtime == "onnx":
        graph = folder / "encoder.onnx"
        return OnnxEncoderBackend(graph, threads=1, capacity=ENCODER_LENGTHS[-1])
    return LitertEncoderBackend(folder / "model.tflite", threads=1)


def open_encoder_decoder(
    runtime: str,
    model: TinyEncoderDecoder,
    folder: Path,
    slots: int = 2,
    cache_dtype: CacheType = "float32",
) -> Any:
    configuration = model.configuration
    cache = CacheLayout(
        configuration.decoder_layers, configuration.heads, configuration.head_size, cache_dtype
    )
    manifest = SimpleNamespace(
        cache=cache,
        source_length=ENCODER_LENGTHS[-1],
        vocabulary_size=configuration.vocabulary_size,
    )
    files = {
        "onnx": {"encoder": "encoder.onnx", "graph": "decoder.onnx"},
        "tflite": {"graph": "model.tflite"},
    }[runtime]
    bundle: Any = SimpleNamespace(file=lambda role: folder / files[role], manifest=manifest)
    backend = {"onnx": OnnxEncoderDecoderBackend, "tflite": LitertEncoderDecoderBackend}[runtime]
    return backend(bundle, threads=1, slots=slots, capacity=CONTEXT)


def _build_onnx(model: Model, folder: Path, recipe: Recipe, **cache: Any) -> None:
    with WeightFile(folder / "model.onnx.data") as weights:
        encoder = OnnxEncoderBuilder(weights, recipe)
        _describe_encoder(model, encoder)
        (folder / "encoder.onnx").write_bytes(encoder.finish("test").SerializeToString())
        if isinstance(model, TinyEncoderDecoder):
            decoder = OnnxBuilder(weights, recipe, CONTEXT, **cache)
            model.decode(decoder)
            (folder / "decoder.onnx").write_bytes(decoder.finish("test").SerializeToString())


def _build_tflite(model: Model, folder: Path, recipe: Recipe) -> None:
    file = TfliteFile()
    weights = WeightStore(file, recipe)
    for length in ENCODER_LENGTHS:
        encoder = TfliteEncoderBuilder(file, weights, length)
        _describe_encoder(model, encoder)
        encoder.finish()
    if isinstance(model, TinyEncoderDecoder):
        longest = ENCODER_LENGTHS[-1]
        for signature in DECODER_GRAPHS:
            decoder = TfliteBuilder(file, weights, signature, CONTEXT, encoder_tokens=longest)
            model.decode(decoder)
            decoder.finish()
    file.write(folder / "model.tflite")


def _describe_encoder(model: Model, builder: Any) -> None:
    (model.forward if isinstance(model, TinyEncoder) else model.encode)(builder)

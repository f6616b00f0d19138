"""Tiny decoders built as graphs, and loaded by the runtime's own back ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from tiny_checkpoint import ArraySource, Case, TinyModel

from edgewise.exporter.graph.onnx_builder import OnnxBuilder
from edgewise.exporter.graph.onnx_weights import WeightFile
from edgewise.exporter.graph.tflite_builder import TfliteBuilder
from edgewise.exporter.graph.tflite_cache import CACHE_NAMES, NEW_NAMES
from edgewise.exporter.graph.tflite_file import TfliteFile
from edgewise.exporter.graph.tflite_signatures import Signature
from edgewise.exporter.graph.tflite_weights import LITERT, SCALES, Release, WeightStore
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.exporter.quantize.streaming import quantize_tensors
from edgewise.runtime.backends.litert import LitertBackend
from edgewise.runtime.backends.onnx import OnnxBackend
from edgewise.runtime.backends.protocol import Backend
from edgewise.runtime.manifest import CacheLayout, CacheType

CONTEXT = 128
RUNTIMES = ("onnx", "tflite")
FLOAT_ROLES = ("norm", "bias", "position")
# Small graphs, so that short sequences cross every boundary.
SMALL = (
    Signature(1, 8),
    Signature(1, 16),
    Signature(1, CONTEXT),
    Signature(8, 0),
    Signature(8, 16),
    Signature(4, CONTEXT),
)


def build_onnx(model: TinyModel, folder: Path, recipe: str, **cache: Any) -> onnx.ModelProto:
    """Write model.onnx and its weights; the rest tells how its cache is kept."""
    folder.mkdir(exist_ok=True)
    with WeightFile(folder / "model.onnx.data") as weights:
        builder = OnnxBuilder(weights, Recipe.parse(recipe), CONTEXT, **cache)
        model.forward(builder)
        graph = builder.finish("test")
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    return graph


def build_tflite(
    model: TinyModel,
    folder: Path,
    recipe: str,
    graphs: Sequence[Signature] = SMALL,
    release: Release = LITERT,
) -> Path:
    """Write model.tflite."""
    folder.mkdir(exist_ok=True)
    file = TfliteFile()
    weights = WeightStore(file, Recipe.parse(recipe), release)
    for signature in graphs:
        builder = TfliteBuilder(file, weights, signature, CONTEXT)
        model.forward(builder)
        builder.finish()
    path = folder / "model.tflite"
    file.write(path)
    return path


def opened(model: TinyModel, graph: Path, cache_dtype: CacheType = "float32") -> Any:
    """Return what a back end reads of a bundle."""
    configuration = model.configuration
    names = {
        "past_key_name": CACHE_NAMES[0],
        "past_value_name": CACHE_NAMES[1],
        "present_key_name": NEW_NAMES[0],
        "present_value_name": NEW_NAMES[1],
    }
    manifest = SimpleNamespace(
        cache=CacheLayout(
            configuration.layers,
            configuration.key_value_heads,
            configuration.head_size,
            cache_dtype,
            **(names if graph.suffix == ".tflite" else {}),
        ),
        vocabulary_size=configuration.vocabulary_size,
        labels=configuration.labels,
        execution_providers=("CPUExecutionProvider",),
        minimum_versions={},
    )
    return SimpleNamespace(path=graph.parent, file=lambda role: graph, manifest=manifest)


def load_onnx(
    model: TinyModel, folder: Path, slots: int = 2, cache_dtype: CacheType = "float32"
) -> OnnxBackend:
    bundle = opened(model, folder / "model.onnx", cache_dtype)
    return OnnxBackend(bundle, threads=1, slots=slots, capacity=CONTEXT)


def load_tflite(model: TinyModel, path: Path, slots: int = 2) -> LitertBackend:
    return LitertBackend(opened(model, path), threads=1, slots=slots, capacity=CONTEXT)


def built(runtime: str, model: TinyModel, folder: Path, recipe: str = "fp32") -> Backend:
    """Write a model's graphs and load them with two slots."""
    if runtime == "onnx":
        build_onnx(model, folder, recipe)
        return load_onnx(model, folder)
    return load_tflite(model, build_tflite(model, folder, recipe))


def step(backend: Backend, slot: int, ids: Sequence[int], past: int) -> NDArray[np.float32]:
    """Run one sequence's next tokens; return the logits of the last."""
    return backend.step(slot, np.asarray([ids]), np.asarray([past], np.int32))[0].copy()


class Dequantized(TinyModel):
    """The same model over the numbers that a recipe's stored weights stand for."""

    def __init__(self, case: Case, recipe: str, runtime: str) -> None:
        super().__init__(case)
        self._recipe = Recipe.parse(recipe)
        self._scales_as = "float32" if runtime == "onnx" else SCALES

    def weight(self, name: str) -> Weight:
        return dequantized(super().weight(name), self._recipe, self._scales_as)


@dataclass(frozen=True)
class DequantizedWeight(Weight):
    """What a stored weight stands for; another role may be stored in another format."""

    plain: Weight
    recipe: Recipe
    scales_as: Any

    def with_role(self, role: Any) -> Weight:
        return dequantized(self.plain.with_role(role), self.recipe, self.scales_as)

    def transposed(self) -> Weight:
        return dequantized(self.plain.transposed(), self.recipe, self.scales_as)


def dequantized(plain: Weight, recipe: Recipe, scales_as: Any) -> Weight:
    """Quantize a weight by its role and back; what no recipe quantizes stays."""
    if plain.role in FLOAT_ROLES:
        return plain
    form = recipe.format_for(plain.role)
    quantized = quantize_tensors([plain.source], form, scales_as=scales_as)
    if quantized is not None:
        array = quantized.dequantize()
    else:
        array = plain.source.read().astype(np.float16 if form.kind == "float16" else np.float32)
    source = ArraySource(array.astype(np.float32))
    return DequantizedWeight(plain.name, plain.role, source, plain, recipe, scales_as)

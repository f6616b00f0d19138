"""Tiny encoders and encoder-decoders whose weights come from a numpy seed, as in tiny_checkpoint.

A case is a JSON file in data/encoders or data/encoder_decoders: a Hugging Face configuration, a
seed and token ids. What transformers computes lies in data/states (oracle/write_states.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_checkpoint import DATA, ArraySource, random_tensor

from edgewise.exporter.graph.protocol import EncoderBuilder, GraphBuilder
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models import find_model
from edgewise.exporter.quantize.recipes import Recipe
from edgewise.exporter.quantize.streaming import quantize_tensors

ENCODERS = sorted(path.stem for path in (DATA / "encoders").glob("*.json"))
ENCODER_DECODERS = sorted(path.stem for path in (DATA / "encoder_decoders").glob("*.json"))
FLOAT_ROLES = ("norm", "bias", "position")


def padded(sequences: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad on the right by 0: ids and mask, int64 [B, T]."""
    longest = max(map(len, sequences))
    ids = np.zeros((len(sequences), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask


def on_the_left(array: NDArray[Any], mask: NDArray[np.int64], fill: int = 0) -> NDArray[Any]:
    """Move what belongs to right-padded tokens, [B, T, ...], as if padding stood before them."""
    moved = np.full_like(array, fill)
    for row, count in enumerate(mask.sum(axis=1)):
        moved[row, array.shape[1] - count :] = array[row, :count]
    return moved


@dataclass(frozen=True)
class StoredWeight(Weight):
    """A weight that reads as what a recipe stores of it."""

    plain: Weight
    recipe: Recipe
    scales_as: str

    def with_role(self, role: Any) -> Weight:
        return stored_weight(self.plain.with_role(role), self.recipe, self.scales_as)


def stored_weight(plain: Weight, recipe: Recipe, scales_as: str) -> Weight:
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
    return StoredWeight(plain.name, plain.role, source, plain, recipe, scales_as)


class TinyFamilyModel:
    """A case's definition over arrays."""

    def __init__(
        self,
        folder: str,
        name: str,
        recipe: str | None = None,
        scales_as: str = "float32",
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """Load a case; with a recipe its weights are those that the recipe stores.

        Args:
            folder: Of the case's kind.
            name: Of the case.
            recipe: By which weights are stored and read.
            scales_as: The type of their scales.
            changes: Of the configuration.
        """
        self.name = name
        self.content: dict[str, Any] = json.loads((DATA / folder / f"{name}.json").read_text())
        self.config = self.content["config"] | dict(changes or {})
        self.definition: Any = find_model(self.config["model_type"])
        self.configuration = self.definition.configuration(self.config)
        self.specifications = self.definition.tensors(self.configuration)
        self.arrays = {
            tensor: random_tensor(tensor, self.content["seed"], spec.shape, spec.role)
            for tensor, spec in self.specifications.items()
        }
        for tensor in self.arrays:
            if tensor.endswith(".q.weight"):
                # T5 does not scale its scores: its queries are that much smaller instead.
                self.arrays[tensor] *= np.float32(self.configuration.head_size**-0.5)
        self._recipe = None if recipe is None else Recipe.parse(recipe)
        self._scales_as = scales_as

    def weight(self, name: str) -> Weight:
        plain = Weight(name, self.specifications[name].role, ArraySource(self.arrays[name]))
        if self._recipe is None:
            return plain
        return stored_weight(plain, self._recipe, self._scales_as)

    def expected(self) -> dict[str, NDArray[np.float32]]:
        """Return what transformers computes, by name."""
        with np.load(DATA / "states" / f"{self.name}.npz", allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    def write(self, folder: Path) -> None:
        """Write what transformers loads."""
        from safetensors.numpy import save_file

        (folder / "config.json").write_text(json.dumps(self.config))
        save_file(self.arrays, folder / "model.safetensors", metadata={"format": "pt"})


class TinyEncoder(TinyFamilyModel):
    def __init__(
        self,
        name: str,
        recipe: str | None = None,
        scales_as: str = "float32",
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__("encoders", name, recipe, scales_as, changes)
        self.ids, self.mask = padded(self.content["sequences"])
        self.counts = self.mask.sum(axis=1).astype(np.int32)
        self.types, _ = padded(self.content["token_types"])

    def forward(self, builder: EncoderBuilder[Any]) -> None:
        self.definition.forward(builder, self.configuration, self.weight)


class TinyEncoderDecoder(TinyFamilyModel):
    def __init__(
        self,
        name: str,
        recipe: str | None = None,
        scales_as: str = "float32",
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__("encoder_decoders", name, recipe, scales_as, changes)
        self.ids, self.mask = padded(self.content["sources"])
        self.counts = self.mask.sum(axis=1).astype(np.int32)
        self.targets = np.asarray(self.content["targets"])

    def encode(self, builder: EncoderBuilder[Any]) -> None:
        self.definition.encode(builder, self.configuration, self.weight)

    def decode(self, builder: GraphBuilder[Any]) -> None:
        self.definition.decode(builder, self.configuration, self.weight)

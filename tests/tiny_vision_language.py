"""A tiny vision-language model whose weights come from a numpy seed, as in tiny_checkpoint.

A case is a JSON file in data/vision_language: a Hugging Face configuration, a seed, images of
tiny_images by name, and prompts: token ids, where -1 stands for the first image and -2 for the
second. What transformers computes lies in data/states (oracle/write_vision_language.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from tiny_checkpoint import DATA, random_tensor
from tiny_families import TinyFamilyModel
from tiny_images import CLIP_MEAN, CLIP_STD, IMAGE_CASES

from edgewise.exporter.graph.outline import OutlineBuilder
from edgewise.exporter.graph.protocol import GraphBuilder, ImageBuilder, LookupBuilder
from edgewise.exporter.graph.weight import Weight
from edgewise.exporter.models.clip_vision import vision_states, vision_tensors
from edgewise.runtime.bundle import ImageLayout
from edgewise.runtime.images import pixels_of

VISION_LANGUAGE = sorted(path.stem for path in (DATA / "vision_language").glob("*.json"))
VISION_STATES = "vision_states"
Array = NDArray[np.float32]


class TinyVisionLanguage(TinyFamilyModel):
    def __init__(self, name: str, recipe: str | None = None, scales_as: str = "float32") -> None:
        super().__init__("vision_language", name, recipe, scales_as)
        vision = self.configuration.vision
        self.layout = ImageLayout(
            vision.image_size, CLIP_MEAN, CLIP_STD, "mean", tokens=vision.tokens
        )
        self.prompts: list[list[int]] = self.content["prompts"]

    def images(self) -> list[PIL.Image.Image]:
        return [PIL.Image.fromarray(IMAGE_CASES[name].pixels()) for name in self.content["images"]]

    def pixels(self) -> Array:
        """Return [images, 3, side, side]."""
        return np.stack([pixels_of(image, self.layout) for image in self.images()])

    def see(self, builder: ImageBuilder[Any]) -> None:
        self.definition.see(builder, self.configuration, self.weight)

    def see_states(self, builder: ImageBuilder[Any]) -> None:
        """Describe the tower alone."""
        c = self.configuration
        states = vision_states(builder, c.vision, self.weight, c.tower)
        builder.output(VISION_STATES, states)

    def embed(self, builder: LookupBuilder[Any]) -> None:
        self.definition.embed(builder, self.configuration, self.weight)

    def forward(self, builder: GraphBuilder[Any]) -> None:
        self.definition.forward(builder, self.configuration, self.weight)

    def read_by_all_graphs(self) -> set[str]:
        """Describe all graphs, and return the names of the weights that they asked for."""
        read: set[str] = set()

        def recorded(name: str) -> Weight:
            read.add(name)
            return self.weight(name)

        for describe in (self.definition.see, self.definition.embed, self.definition.forward):
            describe(OutlineBuilder(), self.configuration, recorded)
        return read

    def spliced(self, prompt: list[int], table: Array, features: Array) -> Array:
        """Return a prompt's vectors, [1, T, D], by the plain meaning of its marks."""
        rows = [table[token][None] if token >= 0 else features[-1 - token] for token in prompt]
        return np.concatenate(rows)[None]

    def unread_arrays(self) -> dict[str, Array]:
        """Return what a checkpoint holds and no graph reads: a last layer, norm and positions."""
        c, seed = self.configuration, self.content["seed"]
        table = {}
        for name, spec in vision_tensors(c.vision, c.tower).items():
            if name.startswith(f"{c.tower}encoder.layers.0."):
                table[name.replace("layers.0.", f"layers.{c.vision.layers}.")] = spec
            if ".pre_layrnorm." in name:
                table[name.replace("pre_layrnorm", "post_layernorm")] = spec
        return {
            name: random_tensor(name, seed, spec.shape, spec.role) for name, spec in table.items()
        }

    def image_processor(self) -> dict[str, Any]:
        """Return what transformers writes of a CLIPImageProcessor."""
        size = self.configuration.vision.image_size
        return {
            "crop_size": {"height": size, "width": size},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": CLIP_MEAN,
            "image_processor_type": "CLIPImageProcessor",
            "image_std": CLIP_STD,
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": size},
        }

    def write(self, folder: Path) -> None:
        """Write a checkpoint as the model's authors do."""
        from safetensors.numpy import save_file

        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "preprocessor_config.json").write_text(json.dumps(self.image_processor()))
        arrays = self.arrays | self.unread_arrays()
        save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})

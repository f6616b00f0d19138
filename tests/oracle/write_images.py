"""Compute with transformers what images become before a vision tower, and store or compare it.

Runs in an environment of its own (torch and transformers are no dependency of Edgewise; Pillow is):

    python tests/oracle/write_images.py           # write tests/data/images/*.npz
    python tests/oracle/write_images.py --check   # compare what is stored with a live run

LLaVA's ``expand2square`` is computed by its definition; transformers' LLaVA processor, which pads
by itself, must agree with it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_images import IMAGE_CASES

FOLDER = Path(__file__).parents[1] / "data" / "images"


def expanded_to_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def live_pixels(name: str) -> np.ndarray:
    case = IMAGE_CASES[name]
    image = Image.fromarray(case.pixels())
    sizes = {
        "size": {"shortest_edge": case.size},
        "crop_size": {"height": case.size, "width": case.size},
    }
    processor = CLIPImageProcessorPil(**sizes)
    colour = tuple(int(value * 255) for value in processor.image_mean)
    square = expanded_to_square(image, colour)
    pixels = processor(square, return_tensors="np")["pixel_values"][0]
    padding = LlavaImageProcessorPil(**sizes, do_pad=True)
    if not np.array_equal(pixels, padding(image, return_tensors="np")["pixel_values"][0]):
        raise SystemExit(f"{name}: the two references differ")
    return pixels


def live_cut(name: str) -> np.ndarray:
    """Return what the processor gives by itself: a square out of the middle."""
    case = IMAGE_CASES[name]
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": case.size}, crop_size={"height": case.size, "width": case.size}
    )
    image = Image.fromarray(case.pixels())
    return processor(image, return_tensors="np")["pixel_values"][0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    different = 0
    FOLDER.mkdir(exist_ok=True)
    for name in IMAGE_CASES:
        live, path = {"pixels": live_pixels(name), "cut": live_cut(name)}, FOLDER / f"{name}.npz"
        if not check:
            np.savez_compressed(path, **live)
            print(f"{name}: {live['pixels'].shape} {path.stat().st_size} bytes written")
            continue
        with np.load(path, allow_pickle=False) as stored:
            if any(not np.array_equal(stored[part], pixels) for part, pixels in live.items()):
                print(f"{name}: differs")
                different += 1
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())

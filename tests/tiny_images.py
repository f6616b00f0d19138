"""Images whose pixels come from a numpy seed, and layouts, for tests and for the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageCase:
    width: int
    height: int
    size: int  # to which it is resized
    seed: int
    noise: float = 40.0  # standard deviation

    def pixels(self) -> NDArray[np.uint8]:
        """Return [height, width, 3]: a slope of each colour with noise on it, edges of both."""
        rng = np.random.default_rng(self.seed)
        down = np.linspace(0, 255, self.height)[:, None, None]
        across = np.linspace(255, 0, self.width)[None, :, None]
        slopes = down * np.array([1.0, 0.3, 0.0]) + across * np.array([0.0, 0.5, 1.0])
        noise = rng.normal(0, self.noise, (self.height, self.width, 3))
        return np.clip(slopes + noise, 0, 255).astype(np.uint8)


IMAGE_CASES: Mapping[str, ImageCase] = {
    "landscape_smaller": ImageCase(61, 37, 28, 1),
    "portrait_smaller": ImageCase(30, 83, 28, 2),
    "square": ImageCase(50, 50, 28, 3),
    "same_size": ImageCase(28, 28, 28, 4),
    "larger": ImageCase(13, 9, 28, 5),
    "odd_bars": ImageCase(64, 33, 56, 6),
    "line_across": ImageCase(300, 1, 28, 7),
    "line_down": ImageCase(1, 300, 28, 8),
    "several_bands": ImageCase(90, 700, 28, 9),
    "clip_336": ImageCase(401, 293, 336, 10, noise=0.6),
}

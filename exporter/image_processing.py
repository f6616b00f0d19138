"""How a checkpoint's images are read, for the manifest.

A ``preprocessor_config.json`` says it; without one CLIP's numbers hold, with which all towers that
are exported were trained. Rule: what it asks for and the runtime does not do is refused, for a
model that sees other pixels than it was trained on answers, but badly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from edgewise.common.errors import EdgewiseError
from edgewise.exporter.models.clip_vision import VisionConfiguration
from edgewise.runtime.bundle import ImageLayout

# Of red, green and blue, from 0 to 1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3  # Pillow's number
# Steps that are always done, and the factor of one of them.
STEPS = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
RESCALE_FACTOR = 1 / 255


class ImageProcessingError(EdgewiseError):
    """A checkpoint whose images are read as the runtime does not read them."""


def image_layout(
    processor: Mapping[str, Any], vision: VisionConfiguration, *, cuts: bool = False
) -> ImageLayout:
    """Say how images are read.

    Args:
        processor: Content of preprocessor_config.json; empty where there is none.
        vision: The tower.
        cuts: Whether the middle is cut out of an image unless the processor has ``do_pad``;
            without, bars always make it a square, as in models whose own code adds them.

    Raises:
        ImageProcessingError: Images are read otherwise; all that differs stands in the message.
    """
    mean = _colours(processor.get("image_mean", CLIP_MEAN))
    std = _colours(processor.get("image_std", CLIP_STD))
    faults = [f"{step} is false" for step in STEPS if not processor.get(step, True)]
    if (resample := processor.get("resample", BICUBIC)) != BICUBIC:
        faults.append(f"resample is {resample!r}, not {BICUBIC} (bicubic)")
    if abs(float(processor.get("rescale_factor", RESCALE_FACTOR)) - RESCALE_FACTOR) > 1e-9:
        faults.append(f"rescale_factor is {processor['rescale_factor']!r}, not 1/255")
    faults += [
        f"{name} is {size}, not the tower's {vision.image_size} pixels"
        for name in ("size", "crop_size")
        for size in _sizes(processor.get(name)) - {vision.image_size}
    ]
    faults += [
        f"{name} is {processor[name]!r}, not a number above 0 for each colour"
        for name, numbers in (("image_mean", mean), ("image_std", std))
        if numbers is None
    ]
    is_cut = cuts and not processor.get("do_pad", False)
    if is_cut and not processor.get("do_center_crop", True):
        faults.append("do_center_crop is false, and no bars are added")
    if faults or mean is None or std is None:
        raise ImageProcessingError(
            f"preprocessor_config.json reads images otherwise than is known here: "
            f"{'; '.join(faults)}. Take the file that came with the weights"
        )
    padding: Literal["mean", "none"] = "none" if is_cut else "mean"
    return ImageLayout(vision.image_size, mean, std, padding, tokens=vision.tokens)


def _colours(value: object) -> tuple[float, ...] | None:
    """Return three numbers above 0, or None where the value is something else."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        return None
    if not all(isinstance(number, int | float) and 0 < number <= 1 for number in value):
        return None
    return tuple(float(number) for number in value)


def _sizes(value: object) -> set[object]:
    """Return the pixels that a size names: a number, or numbers by name."""
    if value is None:
        return set()
    return set(value.values()) if isinstance(value, Mapping) else {value}

"""From an image file to the numbers that a vision graph takes, as CLIP models were trained.

Workflow: `open_image` checks a file and gives an upright image of red, green and blue; `pixels_of`
adds bars that make it a square and resizes that, or resizes it and cuts a square out, and scales
its colours. The reference is transformers' ``CLIPImageProcessor``, behind LLaVA's ``expand2square``
or alone, to which this is equal to the bit.

Rules: an image comes from anywhere, so its bytes, its format and its pixels are limited before
anything of it is decoded, and every fault is an `ImageError`. The padded square never exists as a
whole: a panorama costs no more memory than its own pixels. This is the one module that imports
Pillow, and only when it is called.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.manifest import ImageLayout

if TYPE_CHECKING:
    import PIL.Image

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image"
"""A file, a file's content, or an image of Pillow's."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # the first picture of an animation
FILE_BYTES_MAX = 32 << 20  # bytes
PIXELS_MAX = 40_000_000  # of width times height; Pillow holds 4 bytes for each
SIDE_MAX = 65_535  # pixels; what JPEG allows
BAND_ROWS = 256  # rows that are padded and resized at once
# Colours of more than 8 bits, which Pillow would cut off at 255 instead of scaling them.
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "F")


class ImageError(EdgewiseError):
    """An image that can not be read, or that is larger than what is accepted."""


def open_image(source: ImageSource) -> PIL.Image.Image:
    """Read an image, turned upright as its camera noted.

    Args:
        source: A file, a file's content, or an image of Pillow's, which stays as it is.

    Returns:
        An image of mode "RGB"; what is transparent loses its transparency.

    Raises:
        ImageError: The file is missing, damaged, too large or of another format, or Pillow is not
            installed.
    """
    image_module = _pillow()
    if not isinstance(source, str | bytes | os.PathLike):
        if not isinstance(source, image_module.Image):
            raise ImageError(
                f"an image was given as {type(source).__name__}; accepted are the path of a file, "
                "a file's content as bytes, and an image of Pillow's"
            )
        return _upright(source, "the image")
    name, content = _content(source)
    with io.BytesIO(content) as stream, _read_header(stream, name) as image:
        return _upright(image, name)


def check_pixels(content: bytes, most: int) -> None:
    """Refuse an image by what its header says, without decoding it.

    Args:
        content: A file's content.
        most: Pixels that it may have.

    Raises:
        ImageError: It has more, it is no image, or Pillow is not installed.
    """
    name, content = _content(content)
    with io.BytesIO(content) as stream, _read_header(stream, name) as image:
        width, height = image.size
        if width * height > most:
            raise _too_large(name, f"it has {width} x {height} pixels", most)


def pixels_of(image: PIL.Image.Image, layout: ImageLayout) -> NDArray[np.float32]:
    """Return what the vision graph takes.

    Args:
        image: Of mode "RGB", as `open_image` gives it.
        layout: Of the model's manifest.

    Returns:
        float32 [3, size, size]: red, green and blue.

    Raises:
        ImageError: An image whose middle is to be cut out is too long and narrow.
    """
    mean = np.asarray(layout.mean, np.float32)[:, None, None]
    std = np.asarray(layout.std, np.float32)[:, None, None]
    square = _cut(image, layout) if layout.padding == "none" else _squared(image, layout)
    numbers = np.asarray(square).transpose(2, 0, 1)
    # Multiplied in float64 and rounded, as the reference does.
    scaled = (numbers * (1 / 255)).astype(np.float32)
    pixels: NDArray[np.float32] = (scaled - mean) / std
    return pixels


def bar_colour(mean: Sequence[float]) -> tuple[int, ...]:
    """Return the colour of the bars that make an image a square."""
    return tuple(int(value * 255) for value in mean)


def _squared(image: PIL.Image.Image, layout: ImageLayout) -> PIL.Image.Image:
    """Pad to a square and resize, as if the padded square had been made and resized.

    Pillow resizes rows first and columns then, and rounds to 8 bits between. So rows are padded and
    resized some at a time, and the bars above and below are added to what is left of them.
    """
    image_module = _pillow()
    width, height = image.size
    side, size = max(width, height), layout.size
    colour = bar_colour(layout.mean)
    left, top = (side - width) // 2, (side - height) // 2
    resample = image_module.Resampling.BICUBIC
    narrow = image_module.new("RGB", (size, side), colour)
    for start in range(0, height, BAND_ROWS):
        stop = min(start + BAND_ROWS, height)
        band = image_module.new("RGB", (side, stop - start), colour)
        band.paste(image.crop((0, start, width, stop)), (left, 0))
        narrow.paste(band.resize((size, stop - start), resample), (0, top + start))
    resized: PIL.Image.Image = narrow.resize((size, size), resample)
    return resized


def _cut(image: PIL.Image.Image, layout: ImageLayout) -> PIL.Image.Image:
    """Resize the shorter side, and cut the middle out of the longer one."""
    width, height = image.size
    size, shorter = layout.size, min(width, height)
    wide, high = int(size * width / shorter), int(size * height / shorter)
    if wide * high > PIXELS_MAX:
        raise ImageError(
            f"the image has {width} x {height} pixels, of which {size} x {size} in the middle are"
            " seen after it is resized to that height or width; cut out what is to be seen"
        )
    resized = image.resize((wide, high), _pillow().Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    return resized.crop((left, top, left + size, top + size))


def _upright(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """Check the size, decode, turn by the camera's note, and give red, green and blue."""
    from PIL import ImageOps  # noqa: PLC0415  # see docstring

    width, height = image.size
    if width * height > PIXELS_MAX or max(width, height) > SIDE_MAX or min(width, height) < 1:
        raise _too_large(name, f"it has {width} x {height} pixels")
    if image.mode in DEEP_MODES:
        raise ImageError(
            f"{name} has colours of the mode {image.mode!r}, more than 8 bits each; convert it to "
            "8 bits"
        )
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "P":  # RGBA first: Pillow warns of transparency that it would drop
            upright = upright.convert("RGBA")
        return upright.convert("RGB")
    except Exception as error:  # Pillow's readers raise a class of their own for each fault
        raise ImageError(
            f"{name} can not be decoded, it is damaged or cut short: {error}; fetch it again"
        ) from error


def _read_header(stream: io.BytesIO, name: str) -> PIL.Image.Image:
    """Open an image, of which nothing is decoded yet."""
    image_module = _pillow()
    try:
        opened: PIL.Image.Image = image_module.open(stream, formats=FORMATS)
    except image_module.DecompressionBombError as error:
        raise _too_large(name, str(error)) from error
    except Exception as error:  # Pillow's readers raise a class of their own for each fault
        raise ImageError(
            f"{name} is no readable image: {error}; accepted are {', '.join(FORMATS)} files"
        ) from error
    return opened


def _too_large(name: str, what: str, most: int = PIXELS_MAX) -> ImageError:
    return ImageError(
        f"{name} is too large: {what}; accepted are up to {most} pixels, at most {SIDE_MAX} "
        "a side: make it smaller"
    )


def _content(source: str | os.PathLike[str] | bytes) -> tuple[str, bytes]:
    """Return how to name an image in an error, and its bytes."""
    if isinstance(source, bytes):
        name, content = "the image", source
    else:
        name = str(Path(source))
        try:
            with Path(source).open("rb") as stream:
                content = stream.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise ImageError(
                f"{name} can not be read: {error.strerror}; give the path of an image file"
            ) from error
    if len(content) > FILE_BYTES_MAX:
        raise ImageError(
            f"{name} has more than {FILE_BYTES_MAX} bytes, the most that are accepted: save it "
            "smaller, or as JPEG"
        )
    return name, content


def _pillow() -> Any:
    """Return the module ``PIL.Image``; `ImageError` without it."""
    try:
        import PIL.Image  # noqa: PLC0415  # see docstring
    except ImportError as error:
        raise ImageError(
            "images need Pillow, which the base installation leaves out: "
            "pip install 'edgewise[vision]'"
        ) from error
    return PIL.Image

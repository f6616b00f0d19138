"""Images against the reference's own numbers, and everything that is refused."""

import dataclasses
import io
import struct
import sys
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import DATA
from tiny_images import CLIP_MEAN, CLIP_STD, IMAGE_CASES

from edgewise.runtime import images
from edgewise.runtime.bundle import ImageLayout
from edgewise.runtime.images import ImageError, bar_colour, open_image, pixels_of


def layout(size):
    return ImageLayout(size, CLIP_MEAN, CLIP_STD, "mean", tokens=4)


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def picture(width=9, height=5):
    return PIL.Image.fromarray(IMAGE_CASES["square"].pixels()[:height, :width])


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_pixels_are_those_of_the_reference_to_the_bit(name):
    case = IMAGE_CASES[name]
    with np.load(DATA / "images" / f"{name}.npz", allow_pickle=False) as stored:
        expected = stored["pixels"]
    pixels = pixels_of(PIL.Image.fromarray(case.pixels()), layout(case.size))
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_the_middle_is_that_of_the_reference_to_the_bit(name):
    case = IMAGE_CASES[name]
    with np.load(DATA / "images" / f"{name}.npz", allow_pickle=False) as stored:
        expected = stored["cut"]
    without_bars = dataclasses.replace(layout(case.size), padding="none")
    pixels = pixels_of(PIL.Image.fromarray(case.pixels()), without_bars)
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, expected)


def test_a_middle_of_almost_nothing_is_refused():
    narrow = dataclasses.replace(layout(336), padding="none")
    assert pixels_of(PIL.Image.new("RGB", (2, 700)), narrow).shape == (3, 336, 336)
    with pytest.raises(ImageError, match="1 x 700 pixels, of which 336 x 336 in the middle"):
        pixels_of(PIL.Image.new("RGB", (1, 700)), narrow)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 120), st.integers(1, 700), st.integers(1, 40), st.booleans(), st.integers(0, 9)
)
def test_bands_give_what_the_whole_padded_square_gives(short, long, size, upright, seed):
    shape = (long, short, 3) if upright else (short, long, 3)
    array = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    side = max(long, short)
    square = PIL.Image.new("RGB", (side, side), bar_colour(CLIP_MEAN))
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    square.paste(PIL.Image.fromarray(array), (left, top))
    resized = np.asarray(square.resize((size, size), PIL.Image.Resampling.BICUBIC))
    assert np.array_equal(
        np.asarray(images._squared(PIL.Image.fromarray(array), layout(size))), resized
    )


def test_bars_have_the_colour_of_the_mean():
    assert bar_colour(CLIP_MEAN) == (122, 116, 104)
    pixels = pixels_of(PIL.Image.new("RGB", (40, 4), (255, 255, 255)), layout(20))
    expected = (np.array([122, 116, 104]) / 255 - CLIP_MEAN) / CLIP_STD
    assert np.allclose(pixels[:, 0, 0], expected, atol=1e-6)
    assert (pixels[:, 10] > 1).all()


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "WEBP"])
def test_formats_without_loss_open_alike_from_bytes_and_from_a_file(form, tmp_path):
    image = picture() if form != "GIF" else picture().quantize(16)
    content = encoded(image, form, **({"lossless": True} if form == "WEBP" else {}))
    path = tmp_path / "picture"
    path.write_bytes(content)
    for source in (content, path, str(path)):
        opened = open_image(source)
        assert opened.mode == "RGB"
        assert np.array_equal(np.asarray(opened), np.asarray(image.convert("RGB")))


def test_a_jpeg_opens():
    opened = np.asarray(open_image(encoded(picture(), "JPEG", quality=95)), np.int16)
    assert np.abs(opened - np.asarray(picture(), np.int16)).mean() < 30


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_an_image_of_any_mode_of_8_bits_becomes_rgb(mode):
    image = picture().convert(mode)
    opened = open_image(image)
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), np.asarray(image.convert("RGB")))
    assert image.mode == mode


def test_transparency_of_a_palette_is_dropped_without_a_warning(recwarn):
    image = picture().quantize(8)
    image.info["transparency"] = bytes([0, 128] + [255] * 6)
    assert open_image(encoded(image, "PNG")).mode == "RGB"
    assert not recwarn.list


def test_a_camera_that_was_turned_gives_an_upright_image():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: the top of the scene is at the right
    opened = open_image(encoded(picture(), "PNG", exif=exif))
    assert np.array_equal(np.asarray(opened), np.rot90(np.asarray(picture()), -1))


def test_an_animation_gives_its_first_picture():
    pictures = [PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = encoded(pictures[0], "GIF", save_all=True, append_images=pictures[1:])
    assert np.asarray(open_image(content))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_a_file_that_is_cut_short_is_refused(form):
    content = encoded(picture(50, 50), form)
    for length in (len(content) // 2, 20, 0):
        with pytest.raises(ImageError, match="the image"):
            open_image(content[:length])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF"]),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=8),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_an_image_or_an_image_error(form, changes):
    content = bytearray(encoded(picture(30, 30), form))
    for place, value in changes:
        content[place % len(content)] = value
    try:
        opened = open_image(bytes(content))
    except ImageError:
        return
    assert opened.mode == "RGB"


@pytest.mark.parametrize("form", ["TIFF", "PPM", "ICO", "TGA"])
def test_another_format_is_refused(form):
    with pytest.raises(ImageError, match="accepted are JPEG, PNG"):
        open_image(encoded(picture(), form))


def png_header(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        for body in (chunk, data, b"IEND")
    )


@pytest.mark.parametrize(
    "size", [(100_000, 100_000), (20_000, 2_001), (65_536, 1), (1, 65_536), (2**31 - 1, 2**31 - 1)]
)
@pytest.mark.filterwarnings("ignore")
def test_a_decompression_bomb_is_refused_by_its_header(size):
    with pytest.raises(ImageError, match="too large"):
        open_image(png_header(*size))


def test_an_image_of_pillow_is_limited_too(monkeypatch):
    monkeypatch.setattr(images, "PIXELS_MAX", 44)
    with pytest.raises(ImageError, match="9 x 5"):
        open_image(picture())


def test_a_large_file_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "FILE_BYTES_MAX", 99)
    path = tmp_path / "large.png"
    path.write_bytes(bytes(100))
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageError, match="more than 99 bytes"):
            open_image(source)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ImageError, match=str(path)):
            open_image(path)


def test_deep_colours_are_refused():
    deep = PIL.Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    for source in (deep, encoded(deep, "PNG")):
        with pytest.raises(ImageError, match="8 bits"):
            open_image(source)


def test_what_is_no_image_is_refused():
    with pytest.raises(ImageError, match="ndarray"):
        open_image(np.zeros((4, 4, 3), np.uint8))


def test_without_pillow_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImageError, match=r"pip install 'edgewise\[vision\]'"):
        open_image(b"")

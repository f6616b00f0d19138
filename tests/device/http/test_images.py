"""Images in conversations, and what is refused of them."""

from __future__ import annotations

import base64
import io

import pytest

from edgewise.runtime import GenerationOptions, load
from edgewise.runtime.backends.fake_bundle import write_fake_vision_bundle

pillow = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision") / "b"
    with load(write_fake_vision_bundle(folder, reply="", image_tokens=5), slots=2) as loaded:
        yield loaded


def png(colour):
    with io.BytesIO() as stream:
        pillow.new("RGB", (6, 4), colour).save(stream, "PNG")
        return stream.getvalue()


def url(content, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def seen(*parts):
    """A message of texts, and of images as URLs or bytes."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": url(part), "detail": "low"}}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


def test_images_stand_where_their_parts_do(serve, model):
    ask = serve(model)
    red, blue = png("red"), png("blue")
    options = GenerationOptions(max_tokens=8)
    for images in ((red, blue), (blue, red)):
        answer = ask.chat(messages=seen("First", images[0], "then", images[1]), max_tokens=8).json
        message = {"role": "user", "content": "First\n<image>\nthen\n<image>"}
        expected = model.generate([message], options, images=images)
        assert answer["choices"][0]["message"]["content"] == expected.text
        assert answer["usage"]["prompt_tokens"] == expected.statistics.prompt_tokens
    ask.server.stop()


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url"}, "not None"),
        ({"type": "image_url", "image_url": {"url": "http://10.0.0.1/x.png"}}, "not fetched"),
        ({"type": "image_url", "image_url": "file:///etc/passwd"}, "not fetched"),
        ({"type": "image_url", "image_url": "data:text/html;base64,AA=="}, "data:image/png"),
        ({"type": "image_url", "image_url": "data:image/png;base64,A*"}, "no base64"),
        ({"type": "image_url", "image_url": url(b"no image")}, "image"),
        ({"type": "image_url", "image_url": {"url": "x", "detail": "huge"}}, "'huge'"),
        ({"type": "input_audio"}, "accepted: text and image_url"),
        ({"type": "text", "text": "<image>"}, "images were given: 0"),
    ],
)
def test_what_can_not_be_seen(serve, model, part, expected):
    ask = serve(model)
    answer = ask.chat(messages=[{"role": "user", "content": [part]}])
    assert answer.status == 400
    assert expected in answer.error["message"]


def test_too_many_images_are_refused(serve, model):
    answer = serve(model, max_images=2).chat(messages=seen(*[png("red")] * 3))
    assert answer.status == 400
    assert "3 images; accepted: up to 2" in answer.error["message"]

"""Images and named tasks in requests: from the asking side to the model, and what is refused."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from edgewise.device.abilities import Abilities
from edgewise.device.errors import DeviceError, RequestFailedError, WireError
from edgewise.device.image_fields import (
    IMAGE_BYTES_MAX,
    IMAGE_PIXELS_MAX,
    IMAGES_BYTES_MAX,
    MEDIA_TYPES,
    RequestImage,
    media_type_of,
)
from edgewise.device.request_making import generation_request
from edgewise.device.request_messages import (
    MAX_REQUEST_BYTES,
    MAX_SEEING_REQUEST_BYTES,
    Request,
    parse_request,
)
from edgewise.device.requester import Requester
from edgewise.runtime.backends.fake_bundle import (
    write_fake_bundle,
    write_fake_sequence_bundle,
    write_fake_vision_bundle,
)
from edgewise.runtime.images import ImageError
from edgewise.runtime.loading import load
from edgewise.runtime.options import GenerationOptions

pillow = pytest.importorskip("PIL.Image")
OPTIONS = GenerationOptions(max_tokens=8)
PREFIXES = {"translation-en-to-de": "translate English to German: ", "summarization": "summarize: "}
NAMES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"} | {
    "GIF": "image/gif",
    "BMP": "image/bmp",
}


def picture(colour: str, kind: str = "PNG", size: tuple[int, int] = (6, 4)) -> bytes:
    with io.BytesIO() as stream:
        pillow.new("RGB", size, colour).save(stream, kind)
        return stream.getvalue()


def field(content: bytes, media_type: str = "image/png") -> dict[str, str]:
    return {"type": media_type, "data": base64.b64encode(content).decode()}


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("vision") / "b"
    with load(write_fake_vision_bundle(folder, reply="", image_tokens=5)) as model:
        yield model


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("translator") / "b"
    with load(write_fake_sequence_bundle(folder, reply="", prefixes=PREFIXES)) as model:
        yield model


def test_an_image_reaches_the_model(
    broker: Any, converse: Any, seeing: Any, tmp_path: Path
) -> None:
    talk = converse(broker, answering=seeing)
    red, blue = picture("red"), picture("blue", "JPEG")
    (tmp_path / "blue.jpg").write_bytes(blue)
    with Requester(broker.url, client="reader", protocol=broker.protocol) as requester:
        for images in ([red], [blue], [red, blue], [red, red]):
            expected = seeing.generate("What?", OPTIONS, images=images)
            sent = [tmp_path / "blue.jpg" if image is blue else image for image in images]
            final = requester.request(talk.device, "What?", OPTIONS, images=sent)
            assert final.text == expected.text
            assert final.usage.prompt_tokens == expected.statistics.prompt_tokens
        turns = [{"role": "user", "content": "Is <image> like <image>?"}]
        expected = seeing.generate(turns, OPTIONS, images=[blue, red])
        final = requester.request(talk.device, turns, OPTIONS, images=[blue, red])
        assert final.text == expected.text
        with pytest.raises(RequestFailedError, match="images were given: 1") as caught:
            requester.request(talk.device, turns, OPTIONS, images=[blue])
        assert caught.value.code == 400


def test_a_large_image_fits_through_every_broker(broker: Any, converse: Any, seeing: Any) -> None:
    noise = pillow.effect_noise((1000, 1000), 90).convert("RGB")
    with io.BytesIO() as stream:
        noise.save(stream, "JPEG", quality=95)
        content = stream.getvalue()
    assert 400_000 < len(content) < IMAGE_BYTES_MAX
    talk = converse(broker, answering=seeing)
    with Requester(broker.url, client="reader", protocol=broker.protocol) as requester:
        expected = seeing.generate("What?", OPTIONS, images=[content])
        assert requester.request(talk.device, "What?", OPTIONS, images=[content]).text == (
            expected.text
        )


def test_the_words_of_a_task_begin_the_text(
    broker: Any, converse: Any, translator: Any, new_probe: Any
) -> None:
    talk = converse(broker, answering=translator)
    with Requester(broker.url, client="reader", protocol=broker.protocol) as requester:
        for task, words in PREFIXES.items():
            expected = translator.generate(words + "The house.", OPTIONS)
            final = requester.request(talk.device, "The house.", OPTIONS, task=task)
            assert final.text == expected.text
        with pytest.raises(RequestFailedError, match="'to-fr'; fake knows: translation-en-to-de"):
            requester.request(talk.device, "x", task="to-fr")
    probe = new_probe(broker)
    topic = talk.agent.topics.info
    probe.subscribe(topic)
    (message, *_) = probe.wait_for(lambda one: one.topic == topic)
    assert json.loads(message.payload)["model"]["tasks"] == ["generate", *PREFIXES]


def test_the_info_has_the_limits_of_images(
    mosquitto_5: Any, converse: Any, seeing: Any, new_probe: Any
) -> None:
    talk = converse(mosquitto_5, answering=seeing)
    probe = new_probe(mosquitto_5)
    topic = talk.agent.topics.info
    probe.subscribe(topic)
    (message, *_) = probe.wait_for(lambda one: one.topic == topic)
    limits = json.loads(message.payload)["limits"]
    assert limits["request_bytes"] == MAX_SEEING_REQUEST_BYTES
    assert (limits["images"], limits["image_bytes"]) == (4, IMAGE_BYTES_MAX)
    assert (limits["images_bytes"], limits["image_pixels"]) == (IMAGES_BYTES_MAX, IMAGE_PIXELS_MAX)


def test_a_model_that_sees_nothing_says_so(mosquitto_5: Any, converse: Any, tmp_path: Path) -> None:
    with load(write_fake_bundle(tmp_path / "b")) as blind:
        talk = converse(mosquitto_5, answering=blind)
        talk.ask("small", images=[field(picture("red"))])
        end = talk.probe.wait_for_end("small")
        assert end["code"] == 400
        assert "has images; fake sees no images: ask without" in end["message"]
        large = picture("red") + b"x" * MAX_REQUEST_BYTES
        talk.ask("large", images=[field(large)])
        end = talk.probe.wait_for_end("unreadable")
        assert end["code"] == 413
        assert "at most 131072 are taken. fake sees no images" in end["message"]
        talk.ask("named", task="summarization")
        assert "knows none by name" in talk.probe.wait_for_end("named")["message"]
        talk.ask("fine")
        assert talk.probe.wait_for_end("fine")["status"] == "ok"


def test_an_image_is_measured_before_it_is_decoded(
    mosquitto_5: Any, converse: Any, seeing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = picture("white", size=(5000, 4000))
    assert len(bomb) < 100_000
    decoded: list[str] = []
    monkeypatch.setattr(pillow.Image, "load", lambda *_: decoded.append("yes"))
    talk = converse(mosquitto_5, answering=seeing)
    talk.ask("bomb", images=[field(bomb)])
    end = talk.probe.wait_for_end("bomb")
    assert end["code"] == 400
    assert f"it has 5000 x 4000 pixels; accepted are up to {IMAGE_PIXELS_MAX}" in end["message"]
    assert not decoded


def test_a_damaged_image_fails_alone(mosquitto_5: Any, converse: Any, seeing: Any) -> None:
    talk = converse(mosquitto_5, answering=seeing)
    talk.ask("cut", images=[field(picture("red", "JPEG")[:300], "image/jpeg")])
    talk.ask("none", images=[field(b"\x89PNG\r\n\x1a\nno image")])
    assert "image" in talk.probe.wait_for_end("cut")["message"]
    assert "is no readable image" in talk.probe.wait_for_end("none")["message"]
    talk.ask("fine", images=[field(picture("red"))])
    assert talk.probe.wait_for_end("fine")["status"] == "ok"


RED = field(picture("red"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": RED}, "'images' must be a list of 1 to 4 items"),
        ({"images": []}, "a list of 1 to 4 items"),
        ({"images": [RED] * 5}, "a list of 1 to 4 items"),
        ({"images": ["x"]}, "Each item of 'images' must be an object"),
        ({"images": [{}]}, "no field 'type'"),
        ({"images": [{"type": "image/tiff", "data": ""}]}, "'image/tiff'; accepted: image/jpeg"),
        ({"images": [{"type": "image/png"}]}, "must be base64 of at most 1048576 bytes"),
        ({"images": [{"type": "image/png", "data": 7}]}, "must be base64"),
        ({"images": [{"type": "image/png", "data": "A*=="}]}, "is no base64"),
        ({"images": [{**RED, "url": "http://x"}]}, "unknown fields: 'url'"),
        ({"images": [{**RED, "type": "image/gif"}]}, "said to be image/gif does not begin as such"),
        (
            {"images": [field(picture("red") + b"x" * IMAGE_BYTES_MAX)]},
            "1048576",
        ),
        (
            {"images": [field(picture("red") + b"x" * 900_000)] * 2},
            f"bytes together; accepted: up to {IMAGES_BYTES_MAX}",
        ),
        ({"task": ""}, "'task' must be a string of 1 to 64 characters"),
        ({"task": "x" * 65}, "'task' must be a string"),
        ({"task": "x", "prompt": None, "messages": [{"role": "user", "content": "x"}]}, "'task'"),
    ],
)
def test_what_breaks_a_rule_is_refused(change: dict[str, Any], message: str) -> None:
    payload = json.dumps({"v": 1, "id": "q", "prompt": "x", **change}).encode()
    with pytest.raises(WireError, match=message) as caught:
        parse_request(payload, max_bytes=1 << 23)
    assert caught.value.request_id == "q"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_largest_images_fit_into_the_largest_request() -> None:
    half = picture("red").ljust(IMAGES_BYTES_MAX // 2, b"x")
    request = Request("q", prompt="x" * 100_000, images=(RequestImage("image/png", half),) * 2)
    assert parse_request(request.encode(), max_bytes=Abilities(sees=True).request_bytes) == request


@pytest.mark.parametrize("kind", NAMES)
def test_a_file_is_told_by_how_it_begins(kind: str) -> None:
    assert media_type_of(picture("red", kind)) == NAMES[kind]
    assert set(NAMES.values()) == set(MEDIA_TYPES)
    assert media_type_of(b"<svg/>") is None


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Path("/no/where.png"), "where.png cannot be read: No such file"),
        (b"no image", "the image is no image; accepted: image/jpeg"),
        (b"\xff\xd8\xff" + b"x" * IMAGE_BYTES_MAX, "more than 1048576 bytes.*Make it smaller"),
    ],
)
def test_what_can_not_be_sent_is_refused_here(image: Any, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        generation_request(
            "x", None, request_id="q", priority=5, deadline_seconds=1, images=[image]
        )


def test_images_are_not_written_into_logs() -> None:
    assert len(repr(Request("q", images=(RequestImage("image/png", picture("red") * 99),)))) < 2000


def test_an_image_is_read_by_its_header_where_a_model_is_called() -> None:
    request = Request("q", prompt="x", images=(RequestImage("image/png", b"none"),))
    with pytest.raises(ImageError, match="no readable image"):
        Abilities.seen(request)
    assert Abilities.seen(Request("q", prompt="x")) == {}

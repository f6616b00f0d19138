"""docs/mqtt.md keeps its word: its commands run as they stand, its payloads parse."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgewise.device.agent import Agent
from edgewise.device.agent_settings import AgentSettings
from edgewise.device.announcements import parse_status
from edgewise.device.image_fields import (
    IMAGE_BYTES_MAX,
    IMAGE_PIXELS_MAX,
    IMAGES_BYTES_MAX,
    IMAGES_MAX,
    MEDIA_TYPES,
)
from edgewise.device.reply_messages import (
    ErrorCode,
    Final,
    Results,
    parse_reply,
    sha256_of_text,
)
from edgewise.device.request_messages import (
    MAX_REQUEST_BYTES,
    MAX_SEEING_REQUEST_BYTES,
    MAX_TEXTS,
    MAX_TOP,
    parse_request,
)
from edgewise.device.requester import Requester
from edgewise.device.results import labels_of
from edgewise.device.text_generator import MAX_DESCRIBED
from edgewise.device.verbs import TASKS
from edgewise.runtime.backends.fake_bundle import write_fake_encoder_bundle
from edgewise.runtime.images import check_pixels
from edgewise.runtime.judging import DEFAULT_TOP
from edgewise.runtime.loading import load
from edgewise.runtime.options import LOGIT_BIAS_MAX_COUNT
from edgewise.runtime.output_format import CHOICES_MAX, FORMAT_MAX_BYTES

DOCUMENT = Path(__file__).parents[2] / "docs" / "mqtt.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


COMMANDS = {
    command.split()[0] + " " + command.split("-t ")[1].split()[0].strip("'"): command
    for block in blocks("console")
    for command in re.findall(r"^\$ (.*)$", block, re.MULTILINE)
}
SUBSCRIBE = "mosquitto_sub edgewise/pi/rsp/sensor-7/+"
ASK = "mosquitto_pub edgewise/pi/req/sensor-7/generate"
ASK_ONCE = "mosquitto_rr edgewise/pi/req/sensor-7/generate"
CLASSIFY = "mosquitto_rr edgewise/pi/req/sensor-7/classify"
CANCEL = "mosquitto_pub edgewise/pi/req/sensor-7/cancel"
WATCH = "mosquitto_sub edgewise/pi/status"


@pytest.fixture
def mosquitto(new_mosquitto: Any, model: Any) -> Any:
    """A broker of its own, since the document's names are fixed, with the document's agent."""
    broker = new_mosquitto()
    settings = AgentSettings(chunk_interval_seconds=0.0)
    with Agent(model, broker=f"mqtt://127.0.0.1:{broker.port}", device="pi", settings=settings):
        yield broker
        model.release.set()


@pytest.fixture
def port(mosquitto: Any) -> int:
    return int(mosquitto.port)


def arguments(name: str, port: int, need_tool: Any, *extra: str) -> list[str]:
    words = shlex.split(COMMANDS[name])
    host = words.index("-h")
    assert words[host + 1] == "broker.local"
    words[host : host + 2] = ["-h", "127.0.0.1", "-p", str(port), *extra]
    return [need_tool(words[0]), *words[1:]]


def run(name: str, port: int, need_tool: Any) -> str:
    result = subprocess.run(
        arguments(name, port, need_tool), capture_output=True, text=True, timeout=20, check=True
    )
    return result.stdout


def test_every_command_of_the_document_is_tried_here() -> None:
    assert set(COMMANDS) == {SUBSCRIBE, ASK, ASK_ONCE, CLASSIFY, CANCEL, WATCH}


def test_subscribe_and_ask(mosquitto: Any, need_tool: Any, eventually: Any) -> None:
    words = ["What", "is", "the", "capital", "of", "France?"]
    count = 1 + len(words) + 1  # accepted, a chunk for each word, final
    name = ["-i", "the-listener", "-C", str(count), "-W", "20"]
    command = arguments(SUBSCRIBE, mosquitto.port, need_tool, *name)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listening:
        eventually(lambda: "Sending SUBACK to the-listener" in mosquitto.log)
        run(ASK, mosquitto.port, need_tool)
        output, _ = listening.communicate(timeout=20)
    replies = [parse_reply(line.encode()) for line in output.splitlines()]
    final = replies[-1]
    assert isinstance(final, Final)
    assert final.text == "".join(f"{word} " for word in words)
    assert len(replies) == final.n_chunks + 2 == count


def test_one_question_one_answer(port: int, need_tool: Any) -> None:
    final = parse_reply(run(ASK_ONCE, port, need_tool).encode())
    assert isinstance(final, Final)
    assert (final.id, final.text) == ("q-3", "What is the capital of France? ")


def test_a_request_about_texts(new_mosquitto: Any, need_tool: Any, tmp_path: Path) -> None:
    broker = new_mosquitto()
    labels = ("normal", "fault", "unknown")
    folder = write_fake_encoder_bundle(tmp_path / "b", tasks=("classify",), labels=labels)
    with (
        load(folder) as classifier,
        Agent(classifier, broker=f"mqtt://127.0.0.1:{broker.port}", device="pi"),
    ):
        end = parse_reply(run(CLASSIFY, broker.port, need_tool).encode())
        assert isinstance(end, Results)
        expected = classifier.classify(["The pump is loud again.", "All quiet."])
        found = [labels_of(result) for result in end.results]
        assert [list(one) for one in found] == [[next(iter(one))] for one in expected]


def test_cancel(port: int, need_tool: Any, model: Any) -> None:
    with Requester(f"mqtt://127.0.0.1:{port}", client="sensor-7") as requester:
        stream = requester.stream("pi", "endless", request_id="q-1")
        for _ in stream:
            if not model.release.is_set():
                model.release.set()
                run(CANCEL, port, need_tool)
        assert stream.final is not None
        assert stream.final.status == "cancelled"


def test_watch(port: int, need_tool: Any) -> None:
    lines = dict(line.split(" ", 1) for line in run(WATCH, port, need_tool).splitlines())
    assert set(lines) == {f"edgewise/pi/{name}" for name in ("status", "info", "health")}
    assert json.loads(lines["edgewise/pi/status"])["status"] == "online"


def test_every_payload_of_the_document_parses() -> None:
    lines = [line for block in blocks("json") for line in block.splitlines()]
    replies, final, request, seeing, formatted, results, status = (
        lines[:3],
        json.loads(lines[3]),
        *lines[4:],
    )
    for line in replies:
        parse_reply(line.encode())
    final["sha256"] = sha256_of_text(final["text"])  # the document shows three dots
    assert isinstance(parse_reply(json.dumps(final).encode()), Final)
    assert parse_request(request.encode()).output_format is None
    (image,) = parse_request(seeing.encode()).images
    check_pixels(image.content, 1)
    output_format = parse_request(formatted.encode()).output_format
    assert output_format is not None
    assert output_format.kind == "json"
    reply = parse_reply(results.encode())
    assert isinstance(reply, Results)
    assert [list(labels_of(result)) for result in reply.results] == [["fault"], ["normal"]]
    parse_status(status.encode())


def test_the_numbers_of_the_document_are_those_of_the_code() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d{3}) \|", TEXT, re.MULTILINE)}
    assert codes == {int(code) for code in ErrorCode}
    _, table = TEXT.split("| verb | what comes | models |")
    assert re.findall(r"^\| `(\w+)`", table.partition("\n\n")[0], re.MULTILINE) == list(TASKS)
    assert f"1 to {MAX_TEXTS} texts" in TEXT
    assert f"by default {DEFAULT_TOP}, up to {MAX_TOP}" in TEXT
    assert f"up to {MAX_DESCRIBED}, the `labels`" in TEXT
    assert f"at most {MAX_REQUEST_BYTES} bytes" in TEXT
    assert f"requests of up to {MAX_SEEING_REQUEST_BYTES} bytes" in TEXT
    assert f"up to {IMAGES_MAX} pictures" in TEXT
    assert f"up to {IMAGE_BYTES_MAX} bytes, all together up to\n{IMAGES_BYTES_MAX}" in TEXT
    assert f"up to {IMAGE_PIXELS_MAX} pixels" in TEXT
    assert all(f"`{media_type}`" in TEXT for media_type in MEDIA_TYPES)
    assert f"one of up to {CHOICES_MAX} texts" in TEXT
    assert f"up to {FORMAT_MAX_BYTES} bytes" in TEXT
    assert f"up to {LOGIT_BIAS_MAX_COUNT} tokens" in TEXT
    settings = AgentSettings()
    assert f"({settings.queue_size} by default)" in TEXT
    assert settings.max_deadline_seconds == 600
    assert settings.session_expiry_seconds == 3600
    assert settings.health_interval_seconds == 30

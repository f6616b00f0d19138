"""``edgewise serve`` as a process of its own, asked by curl and by OpenAI's client."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time

import pytest
from running_command import RunningCommand

from edgewise.runtime.backends.fake_bundle import write_fake_bundle, write_fake_encoder_bundle

pytest.importorskip("uvicorn")

REPLY = "The capital of France is Paris 🙂."
KEY = "0123456789abcdef0123456789abcdef"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - with keys, or refused
BODY = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}


class RunningServer(RunningCommand):
    """A server."""

    def __init__(self, process):
        super().__init__(process, begun="is served on")
        self.url = self.lines[-1].partition("is served on ")[2].partition("/v1;")[0]


@pytest.fixture
def start_server(spawn):
    return lambda bundle, *options: RunningServer(spawn("serve", bundle, "--port", "0", *options))


def curl_command(url, *options, body=None):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    data = () if body is None else ("-d", json.dumps(body), "-H", "Content-Type: application/json")
    return ["curl", "-sS", "--max-time", "60", *data, *options, url]


def curl(url, *options, body=None):
    """Return the status and the body that curl shows."""
    command = curl_command(url, "-w", "\n%{http_code}", *options, body=body)
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    content, _, status = result.stdout.rpartition("\n")
    return int(status), content


def test_curl_gets_answers_whole_and_streamed(start_server, bundle):
    server = start_server(bundle)
    status, content = curl(f"{server.url}/v1/chat/completions", body=BODY)
    assert status == 200
    assert json.loads(content)["choices"][0]["message"]["content"] == REPLY
    status, content = curl(f"{server.url}/v1/chat/completions", "-N", body=BODY | {"stream": True})
    assert status == 200
    *events, done, end = content.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("content", "") for delta in deltas) == REPLY
    status, content = curl(f"{server.url}/v1/models")
    assert (status, json.loads(content)["data"][0]["id"]) == (200, "fake")
    assert curl(f"{server.url}/health")[0] == 200
    assert curl(f"{server.url}/v1/models/other")[0] == 404
    assert curl(f"{server.url}/v1/files")[0] == 404
    assert curl(f"{server.url}/v1/chat/completions")[0] == 405
    assert server.stop() == 0
    assert server.lines[-1] == "The server has stopped.\n"


def test_openais_client_gets_answers(start_server, bundle):
    openai = pytest.importorskip("openai")
    server = start_server(bundle, "--slots", "2", "--name", "assistant")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["assistant"]
        assert client.models.retrieve("fake").id == "assistant"
        answer = client.chat.completions.create(**BODY, seed=1, top_p=1, n=2)
        assert [choice.message.content for choice in answer.choices] == [REPLY, REPLY]
        assert answer.usage.total_tokens == 5 + 2 * answer.usage.completion_tokens // 2
        stream = client.chat.completions.create(
            **BODY | {"model": "assistant"},
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=3,
        )
        chunks = list(stream)
        texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
        assert "".join(texts) == "The"
        assert chunks[-2].choices[0].finish_reason == "length"
        assert chunks[-1].usage.completion_tokens == 3
        text = client.completions.create(model="fake", prompt=["a", "b"], max_tokens=2, seed=1)
        assert [choice.index for choice in text.choices] == [0, 1]
        with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
            client.chat.completions.create(**BODY | {"model": "gpt-4"})
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**BODY, temperature=-1)
        assert caught.value.param == "temperature"
    assert server.stop(signal.SIGINT) == 0


def test_openais_client_gets_vectors(start_server, tmp_path):
    openai = pytest.importorskip("openai")
    folder = write_fake_encoder_bundle(tmp_path / "b", tasks=("embed",), features=8)
    server = start_server(folder)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        texts = ["one", "two"]
        plain = client.embeddings.create(model="fake", input=texts, encoding_format="float")
        packed = client.embeddings.create(model="fake", input=texts)  # asks for base64
        vectors = [item.embedding for item in plain.data]
        assert [len(vector) for vector in vectors] == [8, 8]
        assert [sum(x * x for x in vector) for vector in vectors] == pytest.approx([1, 1])
        for vector, item in zip(vectors, packed.data, strict=True):
            assert item.embedding == pytest.approx(vector, abs=1e-7)
        assert plain.usage.prompt_tokens == 2 * (3 + 2)
        with pytest.raises(openai.BadRequestError, match="was not made for the task generate"):
            client.chat.completions.create(**BODY)
    assert server.stop() == 0


def test_with_a_key_file_only_its_keys_open(start_server, bundle, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text(f"# ours\n{KEY}\n")
    keys.chmod(0o600)
    server = start_server(bundle, "--host", EVERYWHERE, "--key-file", keys)
    url = server.url.replace(EVERYWHERE, "127.0.0.1")
    for header in ("X: y", "Authorization: Bearer x", f"Authorization: Basic {KEY}"):
        status, content = curl(f"{url}/v1/models", "-H", header)
        assert status == 401
        assert json.loads(content)["error"]["code"] == "invalid_api_key"
    assert curl(f"{url}/v1/models", "-H", f"Authorization: Bearer {KEY}")[0] == 200
    assert curl(f"{url}/health")[0] == 200
    assert server.stop() == 0
    assert not any(KEY in line for line in server.lines)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--host", EVERYWHERE], "--key-file"),
        (["--host", "::"], "--key-file"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--port", "70000"], "70000"),
        (["--key-file", "missing.txt"], "missing.txt"),
        (["--slots", "0"], "slots=0"),
        (["--queue", "-1"], "queue_size=-1"),
        (["--max-tokens", "0"], "max_tokens=0"),
        (["--drain-seconds", "nan"], "drain_seconds=nan"),
    ],
)  # fmt: skip
def test_a_server_that_can_not_be(edgewise, bundle, options, expected):
    assert expected in edgewise("serve", bundle, *options).mistake()


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        (KEY, 0o644, "chmod 600"),
        (KEY, 0o640, "chmod 600"),
        ("short", 0o600, "16 to 256"),
        ("", 0o600, "no keys"),
        (f"{KEY}\nzwölf Boxkämpfer jagen", 0o600, "ASCII"),
        (f"{KEY}\n" * 3000, 0o600, "too large"),
    ],
)
def test_a_key_file_that_can_not_be_used(edgewise, bundle, tmp_path, content, mode, expected):
    keys = tmp_path / "keys.txt"
    keys.write_text(content)
    keys.chmod(mode)
    message = edgewise("serve", bundle, "--key-file", keys).mistake()
    assert expected in message
    assert KEY not in message


def test_a_port_that_is_taken_and_a_folder_without_a_bundle(edgewise, bundle, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in edgewise("serve", bundle, "--port", port).mistake()
    assert "manifest.json" in edgewise("serve", tmp_path, "--port", "0").mistake()


def begin_stream(server, body=BODY):
    """Start curl on a stream, and return it when the first piece of text has come."""
    command = curl_command(
        f"{server.url}/v1/chat/completions", "-N", "-i", body=body | {"stream": True}
    )
    process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
    seen = b""
    while b'"content":"w"' not in seen:
        seen += process.stdout.readline()
        assert process.poll() is None
    return process, seen


def test_sigterm_lets_running_answers_end_and_refuses_new_ones(start_server, tmp_path):
    bundle = write_fake_bundle(tmp_path / "b", reply="word " * 20, step_seconds=0.02)
    server = start_server(bundle)
    process, seen = begin_stream(server)
    server.process.send_signal(signal.SIGTERM)
    while curl(f"{server.url}/health")[0] == 200:
        time.sleep(0.01)
    status, content = curl(f"{server.url}/v1/chat/completions", "-i", body=BODY)
    assert status == 503
    assert "retry-after: " in content
    assert json.loads(content.rpartition("\n")[2])["error"]["code"] == "stopping"
    out, _ = process.communicate(timeout=60)
    events = (seen + out).decode().replace("\r\n", "\n").partition("\n\n")[2].split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in events[:-2]]
    assert "".join(delta.get("content", "") for delta in deltas) == "word " * 20
    assert server.wait() == 0


def test_what_takes_longer_than_the_drain_is_told_so(start_server, slow_bundle):
    server = start_server(slow_bundle, "--drain-seconds", "0.2")  # a whole answer takes 25 s
    process, _ = begin_stream(server)
    server.process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    last = out.decode().strip().rpartition("\n\n")[2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
    assert server.wait() == 0
    assert any("ended before their time" in line for line in server.lines)


def test_a_second_signal_does_not_wait(start_server, slow_bundle):
    server = start_server(slow_bundle, "--drain-seconds", "600")
    process, _ = begin_stream(server)
    server.process.send_signal(signal.SIGTERM)
    while curl(f"{server.url}/health")[0] == 200:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert server.wait() == 0

"""Fetching from the Hub, against a server on this machine that answers as the Hub does."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import save_file

from edgewise.exporter.checkpoint import CheckpointError, open_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "tiny-org/tiny-model"


@dataclass
class FakeHub:
    """The content of one repository, what was asked for, and which faults to answer with."""

    files: dict[str, bytes] = field(default_factory=dict)
    branches: tuple[str, ...] = ("main", "v1", COMMIT)
    fetched: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    cut_after: dict[str, int] = field(default_factory=dict)  # bytes of the first answer
    error: tuple[int, str] | None = None  # HTTP status and the Hub's error code
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """The two endpoints that are used: a repository's description, and a file of a revision."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def fail(self, status: int, code: str) -> None:
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.hub.error is not None:
            self.fail(*self.hub.error)
            return
        described = re.fullmatch(rf"/api/models/{REPOSITORY}(?:/revision/(.+))?", self.path)
        resolved = re.fullmatch(rf"/{REPOSITORY}/resolve/([^/]+)/(.+)", self.path)
        if described is None and resolved is None:
            self.fail(404, "RepoNotFound")
        elif described is not None:
            self.describe(described[1] or "main")
        elif resolved is not None:
            self.resolve(resolved[1], resolved[2])

    def describe(self, revision: str) -> None:
        if revision not in self.hub.branches:
            self.fail(404, "RevisionNotFound")
            return
        description = {
            "id": REPOSITORY,
            "sha": COMMIT,
            "tags": ["text-generation", "license:mit"],
            "siblings": [{"rfilename": name} for name in self.hub.files],
        }
        self.answer(200, json.dumps(description).encode(), {"Content-Type": "application/json"})

    def resolve(self, revision: str, name: str) -> None:
        content = self.hub.files.get(name)
        if content is None or revision != COMMIT:
            self.fail(404, "EntryNotFound" if revision == COMMIT else "RevisionNotFound")
            return
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        start = 0
        if self.command == "GET":
            self.hub.fetched.append(name)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted is not None:
                self.hub.ranges.append(f"{name} from {wanted[1]}")
                start = int(wanted[1])
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = content[start:]
        cut = self.hub.cut_after.pop(name, None) if self.command == "GET" else None
        if cut is None:
            self.answer(206 if start else 200, part, headers)
            return
        self.answer(200, b"", {**headers, "Content-Length": str(len(part))})
        self.wfile.write(part[:cut])
        self.close_connection = True


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A server that the Hub's client is pointed to, with an empty cache."""
    content = FakeHub()
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": content})
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    content.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", content.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield content
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def filled(hub: FakeHub, make_folder: Any) -> FakeHub:
    """The hub with a checkpoint of one weight file, and files that nobody needs."""
    folder, _ = make_folder()
    for path in folder.iterdir():
        hub.files[path.name] = path.read_bytes()
    hub.files |= {
        "generation_config.json": b'{"temperature": 0.5}',
        "chat_template.jinja": b"template",
        "README.md": b"# read me",
        "pytorch_model.bin": b"\x80\x04.",
        "onnx/model.onnx": b"x",
    }
    return hub


def test_only_what_is_needed_is_fetched_at_one_commit(filled: FakeHub, make_folder: Any) -> None:
    _, original = make_folder()
    with open_checkpoint(REPOSITORY) as checkpoint:
        for name, values in original.items():
            assert np.array_equal(checkpoint.tensors[name].read(), values)
        origin = checkpoint.origin
        assert (origin.kind, origin.name, origin.revision) == ("hub", REPOSITORY, COMMIT)
        assert (origin.file_type, origin.license) == ("safetensors", "mit")
        assert checkpoint.tokenizer.chat_template == "template"
        assert checkpoint.generation == {"temperature": 0.5}
    assert sorted(filled.fetched) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_an_older_tokenizer_is_fetched_where_there_is_no_other(filled: FakeHub) -> None:
    older = {
        "vocab.json": b'{"a": 0, "<s>": 1, "</s>": 2}',
        "merges.txt": b"#version: 0.2\n",
        "vocab.txt": b"x",
    }
    filled.files |= older
    del filled.files["tokenizer.json"]
    filled.files["tokenizer_config.json"] = (
        b'{"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>"}'
    )
    filled.files["config.json"] = b'{"model_type": "llama"}'
    with open_checkpoint(REPOSITORY) as checkpoint:
        assert checkpoint.tokenizer.end_token_ids == (2,)
    assert {"vocab.json", "merges.txt"} <= set(filled.fetched)
    assert "vocab.txt" not in filled.fetched


def test_what_is_there_is_not_fetched_again(filled: FakeHub) -> None:
    open_checkpoint(REPOSITORY).close()
    filled.fetched.clear()
    with open_checkpoint(REPOSITORY, revision="v1") as checkpoint:
        assert checkpoint.origin.revision == COMMIT
    assert filled.fetched == []


def test_a_broken_connection_is_resumed_where_it_broke(
    filled: FakeHub, make_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, original = make_folder()
    monkeypatch.setattr("time.sleep", lambda _: None)
    # The client writes whole chunks, of megabytes; what it has not written it asks for again.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 500)
    filled.cut_after["model.safetensors"] = 1000
    with open_checkpoint(REPOSITORY) as checkpoint:
        for name, values in original.items():
            assert np.array_equal(checkpoint.tensors[name].read(), values)
    assert filled.fetched.count("model.safetensors") == 2
    assert filled.ranges == ["model.safetensors from 1000"]


def test_a_run_that_ended_early_goes_on(filled: FakeHub) -> None:
    """Files that were whole are kept; only the missing ones are fetched by the next run."""
    weights = filled.files.pop("model.safetensors")
    with pytest.raises(CheckpointError, match="has its weights as pickle only"):
        open_checkpoint(REPOSITORY)
    assert filled.fetched == []
    filled.files["model.safetensors"] = weights
    filled.files["model.safetensors.index.json"] = b"{}"
    tokenizer = filled.files.pop("tokenizer_config.json")
    open_checkpoint(REPOSITORY).close()
    filled.files["tokenizer_config.json"] = tokenizer
    filled.fetched.clear()
    open_checkpoint(REPOSITORY).close()
    assert filled.fetched == ["tokenizer_config.json"]


def test_shards_of_the_index_only(filled: FakeHub, tmp_path: Path) -> None:
    del filled.files["model.safetensors"]
    placed = {}
    for number, name in enumerate(("first", "second")):
        shard = f"model-{number + 1:05}-of-00002.safetensors"
        save_file({name: np.full((2, 2), number, np.float32)}, tmp_path / shard)
        filled.files[shard] = (tmp_path / shard).read_bytes()
        placed[name] = shard
    filled.files["consolidated.safetensors"] = b"x"
    filled.files["model.safetensors.index.json"] = json.dumps({"weight_map": placed}).encode()
    with open_checkpoint(REPOSITORY) as checkpoint:
        assert set(checkpoint.tensors) == {"first", "second"}
        assert checkpoint.tensors["second"].read().tolist() == [[1, 1], [1, 1]]
    assert "consolidated.safetensors" not in filled.fetched


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"t": "gone.safetensors"}}, "lacks gone.safetensors, which"),
        ({"weight_map": {"t": "../../a.safetensors"}}, "a .safetensors file beside it is accepted"),
        ({}, "has no weight_map"),
        (None, r"several .*: a\.safetensors, b\.safetensors"),
    ],
)
def test_an_index_may_not_point_elsewhere(filled: FakeHub, index: object, message: str) -> None:
    del filled.files["model.safetensors"]
    filled.files |= {"a.safetensors": b"", "b.safetensors": b""}
    if index is not None:
        filled.files["model.safetensors.index.json"] = json.dumps(index).encode()
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(REPOSITORY)
    assert not any(name.endswith(".safetensors") for name in filled.fetched)


def test_gguf_files(hub: FakeHub, make_gguf: Any) -> None:
    path, _ = make_gguf()
    hub.files |= {"tiny-q4.gguf": path.read_bytes(), "README.md": b"x"}
    with open_checkpoint(REPOSITORY) as checkpoint:
        assert (checkpoint.origin.kind, checkpoint.origin.file_type) == ("hub", "gguf")
        assert checkpoint.origin.revision == COMMIT
    assert hub.fetched == ["tiny-q4.gguf"]
    hub.files["sub/tiny-q8.gguf"] = path.read_bytes()
    choices = rf"{REPOSITORY}/sub/tiny-q8\.gguf, {REPOSITORY}/tiny-q4\.gguf"
    with pytest.raises(CheckpointError, match=f"several GGUF files; give one of: {choices}"):
        open_checkpoint(REPOSITORY)
    with pytest.raises(CheckpointError, match=f"no file q2.gguf; its GGUF files are: {choices}"):
        open_checkpoint(f"{REPOSITORY}/q2.gguf")
    with open_checkpoint(f"{REPOSITORY}/sub/tiny-q8.gguf") as checkpoint:
        assert checkpoint.origin.name == f"{REPOSITORY}/sub/tiny-q8.gguf"


def test_what_is_not_read_costs_no_download(hub: FakeHub) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    with pytest.raises(CheckpointError, match=r"pickle only \(pytorch_model\.bin\)"):
        open_checkpoint(REPOSITORY)
    hub.files = {"config.json": b"{}", "model.safetensors": b"x", "vocab.json": b"{}"}
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json\. Make it with"):
        open_checkpoint(REPOSITORY)
    hub.files = {"README.md": b"x"}
    with pytest.raises(CheckpointError, match="holds no weights: neither safetensors nor GGUF"):
        open_checkpoint(REPOSITORY)
    assert hub.fetched == []


def test_progress_is_told(filled: FakeHub) -> None:
    told: list[tuple[str, int, int]] = []
    open_checkpoint(REPOSITORY, progress=lambda *step: told.append(step)).close()
    size = len(filled.files["model.safetensors"])
    assert ("model.safetensors", size, size) in told
    assert {name for name, _, _ in told} == set(filled.fetched)
    assert all(0 <= done <= total for _, done, total in told)


def test_nothing_is_drawn(filled: FakeHub, capfd: pytest.CaptureFixture[str]) -> None:
    open_checkpoint(REPOSITORY).close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ((401, "RepoNotFound"), "neither a file or folder .* nor a public model"),
        ((403, "GatedRepo"), "is gated: accept its terms at http://127.0.0.1.*hf auth login"),
        ((400, "Other"), "answered with HTTP status 400"),
    ],
)
def test_refusals_are_one_sentence(filled: FakeHub, error: tuple[int, str], message: str) -> None:
    filled.error = error
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(REPOSITORY)
    assert "\n" not in str(caught.value)
    assert REPOSITORY in str(caught.value)


def test_unknown_names_and_revisions(filled: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="has no revision 'v9' on the Hub at http"):
        open_checkpoint(REPOSITORY, revision="v9")
    with pytest.raises(CheckpointError, match="nor a public model"):
        open_checkpoint("tiny-org/other")
    for location in (
        "name-only",
        "./tiny-org/other",
        "a/b/c",
        "/tiny-org/other",
        "a/b/c.bin",
        "..",
    ):
        filled.error = (500, "never asked")
        if not Path(location).exists():
            with pytest.raises(CheckpointError, match="does not exist; accepted are"):
                open_checkpoint(location)


def test_offline_is_one_clear_sentence(
    filled: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_checkpoint(REPOSITORY).close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(
        CheckpointError, match=f"the Hub at {endpoint} can not be reached"
    ) as caught:
        open_checkpoint("tiny-org/never-fetched")
    assert "connect, or give a local path." in str(caught.value)
    assert "Fetched before" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="Fetched before: ") as caught:
        open_checkpoint(REPOSITORY)
    copy = str(caught.value).partition("Fetched before: ")[2].rstrip(".")
    assert Path(copy).is_relative_to(tmp_path)
    with open_checkpoint(copy) as checkpoint:
        assert checkpoint.config["model_type"] == "llama"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="can not be reached") as caught:
        open_checkpoint(REPOSITORY)
    assert "\n" not in str(caught.value)

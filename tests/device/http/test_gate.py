"""Who may ask, and how much may come in."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.device.errors import DeviceError
from edgewise.device.http.connections import HurriedProtocol
from edgewise.device.http.keys import Keys
from edgewise.device.http.listening import host_name, is_loopback, listen, url_of

CHAT = "/v1/chat/completions"
ONE, TWO = "a" * 32, "b" * 32


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_every_key_opens_and_nothing_else(serve, scripted):
    ask = serve(scripted, keys=Keys([ONE, TWO]))
    for headers in ({}, bearer(""), bearer(ONE[:-1]), bearer(ONE + "a"), bearer("ü" * 32)):
        sent = {name: value.encode("latin-1") for name, value in headers.items()}
        for path, body in (
            ("/v1/models", None),
            (CHAT, ask.body()),
            ("/x", None),
        ):
            answer = ask(path, body, headers=sent)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.error["type"] == "authentication_error"
    for key in (ONE, TWO):
        assert ask("/v1/models", headers=bearer(key)).status == 200
        assert ask("/v1/models", headers={"authorization": f"bearer  {key} "}).status == 200
    assert ask("/health").status == 200
    assert scripted.seen == []


@settings(max_examples=50)
@given(st.text() | st.text("a ", min_size=30, max_size=34).filter(lambda text: text.strip() != ONE))
def test_no_text_but_a_key_is_one(text):
    keys = Keys([ONE])
    assert keys.owner(f"Bearer {text}") is None
    assert keys.owner(text) is None


def test_a_key_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"\n# mine\n  {ONE}  \n\n{TWO}")
    path.chmod(0o400)
    keys = Keys.read(path)
    assert keys.owner(f"Bearer {ONE}") == "key 1"
    assert keys.owner(f"Bearer {TWO}") == "key 2"


def test_a_key_file_that_belongs_to_another_or_is_none(tmp_path):
    with pytest.raises(DeviceError, match="is no file"):
        Keys.read(Path(os.devnull))
    with pytest.raises(DeviceError, match="can not be read"):
        Keys.read(tmp_path)
    if os.geteuid() == 0:
        path = tmp_path / "keys"
        path.write_text(ONE)
        path.chmod(0o600)
        os.chown(path, 12345, -1)
        with pytest.raises(DeviceError, match="owner 12345"):
            Keys.read(path)


def test_without_keys_only_names_of_this_machine_are_answered(ask):
    for host in ("localhost", "127.0.0.1:80", "127.8.9.1", "[::1]:8080", "edgewise.localhost"):
        assert ask("/v1/models", headers={"Host": host}).status == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "192.168.1.2:80", "localhost.evil", ""):
        answer = ask("/v1/models", headers={"Host": host})
        assert answer.status == 403
        assert "key file" in answer.error["message"]


def test_a_page_from_elsewhere_can_not_send_a_body_unasked(ask):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = ask(CHAT, ask.body(), headers={"Content-Type": kind})
        assert answer.status == 415
        assert "application/json" in answer.error["message"]
    answer = ask(
        CHAT,
        ask.body(),
        headers={"Content-Type": "application/json; charset=utf-8"},
    )
    assert answer.status == 200
    preflight = ask(CHAT, method="OPTIONS")
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_what_is_not_there_is_told_in_the_same_form(ask):
    assert ask("/v2/models").status == 404
    assert "GET /v2/models" in ask("/v2/models").error["message"]
    answer = ask(CHAT)
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"


def test_models_are_described(ask):
    listed = ask("/v1/models").json
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("fake", "model", "edgewise")
    assert (model["context_length"], model["tasks"]) == (256, ["generate"])
    assert ask("/v1/models/fake").json == model
    answer = ask("/v1/models/org/other")
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"
    assert "'org/other'" in answer.error["message"]


def test_a_body_that_is_too_large_is_not_read(serve, scripted):
    ask = serve(scripted, max_body_bytes=4096)
    padded = ask.body("x" * 5000)
    answer = ask(CHAT, padded)
    assert answer.status == 413
    assert "4096" in answer.error["message"]
    # Announced as endless, and sent in pieces.
    connection = ask.connect()
    connection.putrequest("POST", CHAT)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    connection.send(b"fff\r\n" + b"x" * 4095 + b"\r\n2\r\nxx\r\n")
    assert connection.getresponse().status == 413
    connection.close()
    assert scripted.seen == []


def test_a_body_that_does_not_come_is_given_up(serve, scripted):
    ask = serve(scripted, body_seconds=0.05)
    connection = ask.connect()
    connection.putrequest("POST", CHAT)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "100")
    connection.endheaders()
    connection.send(b"{")
    response = connection.getresponse()
    assert response.status == 408
    assert "0.05 s" in json.loads(response.read())["error"]["message"]
    connection.close()


def test_connections_beyond_the_limit_are_told_so(serve, scripted):
    ask = serve(scripted, max_connections=2)
    first = ask.connect()
    first.connect()
    second = ask.connect()
    second.request("GET", "/health")
    assert second.getresponse().status == 503
    first.close()
    second.close()


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /he"])
def test_a_connection_that_does_not_get_on_is_closed(serve, scripted, monkeypatch, sent):
    monkeypatch.setattr(HurriedProtocol, "hurry_seconds", 0.05)
    ask = serve(scripted)
    hanging = ask.begin("hang x")
    with socket.create_connection((ask.host, ask.port), timeout=10) as raw:
        raw.sendall(sent)
        received = b""
        while part := raw.recv(4096):
            received += part
    assert received.count(b"HTTP/1.1 200 OK") == sent.count(b"\r\n\r\n")
    scripted.release.set()
    assert hanging.getresponse().status == 200  # which took longer, and was at work
    hanging.close()


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01", b"GET /\r\n\r\n", b"x" * 200_000])
def test_what_is_no_http_does_no_harm(ask, junk):
    with socket.create_connection((ask.host, ask.port), timeout=10) as raw:
        raw.sendall(junk + b"\r\n\r\n")
        assert raw.recv(12) == b"HTTP/1.1 400"
    assert ask("/health").status == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.255.0.3", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("a.localhost", True),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.com", False),
        ("", False),
    ],
)
def test_what_counts_as_this_machine(host, expected):
    assert is_loopback(host) is expected


def test_the_name_of_a_host_header():
    assert host_name("a.b:80") == "a.b"
    assert host_name("[::1]:80") == "::1"
    assert host_name("[::1") == "::1"
    assert host_name("") == ""


def test_an_address_of_version_6_has_a_url_of_its_own():
    try:
        opened = listen("::1", 0, has_keys=False)
    except DeviceError:
        pytest.skip("this machine has no IPv6")
    with opened:
        assert url_of(opened) == f"http://[::1]:{opened.getsockname()[1]}"

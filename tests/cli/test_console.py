"""Tables, figures and streams."""

from __future__ import annotations

import io
import json
import sys

import pytest

from edgewise.cli import console, figures


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (101_502_976, "96.8 MiB"),
        (1 << 30, "1.0 GiB"),
        (5 << 40, "5.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
        (None, "unknown"),
    ],
)
def test_sizes(count, text):
    assert figures.size(count) == text


@pytest.mark.parametrize(
    ("duration", "text"),
    [(0.0, "0 ms"), (0.0849, "85 ms"), (1.0, "1.00 s"), (99.99, "99.99 s"), (127.4, "127 s")],
)
def test_durations(duration, text):
    assert figures.seconds(duration) == text


def test_other_figures():
    assert figures.parameters(134_515_008) == "134,515,008 (134.5 M)"
    assert figures.parameters(1_100_048_384) == "1,100,048,384 (1.1 G)"
    assert figures.parameters(7) == "7"
    assert figures.mebibytes(264_212_480) == "252 MiB"
    assert figures.mebibytes(None) == "unknown"
    assert figures.plural(1, "token") == "1 token"
    assert figures.plural(2, "token") == "2 tokens"


def test_tables_are_aligned_and_have_no_trailing_spaces(capsys):
    console.write_table([("a", "bbb", "c"), ("aaaa", "b", ""), ("only a very long one",)], indent=2)
    assert capsys.readouterr().out == "  a     bbb  c\n  aaaa  b\n  only a very long one\n"
    console.write_table([])
    assert capsys.readouterr().out == ""


def test_json_keeps_every_character_and_refuses_what_is_none(capsys):
    console.write_json({"text": "Zürich 🙂 \n"})
    assert json.loads(capsys.readouterr().out) == {"text": "Zürich 🙂 \n"}
    with pytest.raises(ValueError, match="JSON"):
        console.write_json({"rate": float("nan")})
    with pytest.raises(TypeError, match="object has no form"):
        console.write_json({"what": object()})


def test_what_nobody_can_read_is_no_error(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    console.say("to nobody")

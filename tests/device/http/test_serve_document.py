"""docs/serve.md says what the server takes, and its limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgewise.device.errors import WireError
from edgewise.device.http.connections import HURRY_SECONDS
from edgewise.device.http.embedding_requests import read_embedding_request
from edgewise.device.http.generation_requests import read_chat_request, read_text_request
from edgewise.device.http.settings import ServerSettings

PAGE = (Path(__file__).parents[3] / "docs" / "serve.md").read_text()
SETTINGS = ServerSettings()


def known(read, **body):
    """The fields that a request may have, as the refusal of another one lists them."""
    with pytest.raises(WireError, match="unknown field 'zzz'") as caught:
        read({"model": "m", "zzz": 1, **body}, SETTINGS)
    return set(str(caught.value).partition("known: ")[2].rstrip(".").split(", "))


def test_every_field_is_listed_and_every_listed_field_is_one():
    (section,) = re.findall(r"## What a request may say\n\n(.*?)\n\n", PAGE, re.DOTALL)
    words = set(re.findall(r"`([a-z_]+)(?:\.[a-z_]+)?`", section))
    listed = words - {"text", "system", "developer"}  # which are values
    messages = [{"role": "user", "content": "x"}]
    taken = known(read_chat_request, messages=messages) | known(read_text_request, prompt="x")
    taken |= known(read_embedding_request, input="x")
    assert taken - {"model"} == listed


def test_the_limits_are_those_of_the_settings():
    (table,) = re.findall(r"## Limits\n\n(.*?)\n\n", PAGE, re.DOTALL)
    rows = dict(re.findall(r"^\| (.*?) \| (.*?) \|", table, re.MULTILINE))
    assert rows["answers that wait"] == f"`--queue`, {SETTINGS.queue_size}"
    assert rows["answers of one request (`n` times prompts)"] == str(SETTINGS.max_choices)
    assert rows["body"].startswith(f"{SETTINGS.max_body_bytes >> 20} MiB")
    assert rows["body"].endswith(f"within {SETTINGS.body_seconds:g} s")
    assert rows["messages, texts to embed"] == str(SETTINGS.max_messages)
    assert SETTINGS.max_texts == SETTINGS.max_messages
    hurry = f"begin a request within {2 * HURRY_SECONDS:g} s"
    assert rows["connections"] == f"{SETTINGS.max_connections}, of which each must {hurry}"
    assert f"`--drain-seconds` ({SETTINGS.drain_seconds:g})" in PAGE

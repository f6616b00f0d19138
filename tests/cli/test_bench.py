"""``edgewise bench``: the form of its figures, and numbers that make no sense."""

from __future__ import annotations

import json

import pytest

from edgewise.runtime.backends.fake_bundle import (
    write_fake_encoder_bundle,
    write_fake_sequence_bundle,
)

SPREAD = {"median": float, "least": float, "most": float}
REPORT = {
    "model_id": str,
    "recipe": str,
    "profile": str,
    "runtime": str,
    "threads": int,
    "rounds": int,
    "load_seconds": SPREAD,
    "cold_start_seconds": SPREAD,
    "peak_rss_bytes": int,
    "anonymous_rss_bytes": (int, type(None)),
    "prompt_tokens": int,
    "new_tokens": int,
    "depths": [
        {
            "history": int,
            "prefill_tokens_per_second": SPREAD,
            "decode_tokens_per_second": SPREAD,
        }
    ],
    "text_decode_tokens_per_second": SPREAD,
}
SMALL = ("--prompt-tokens", "8", "--new-tokens", "4", "--rounds", "1")


def test_json_has_its_form(edgewise, bundle, check_shape):
    result = edgewise("bench", bundle, *SMALL, "--history", "30", "--history", "10", "--json")
    assert result.code == 0
    value = json.loads(result.out)
    check_shape(value, REPORT)
    assert [depth["history"] for depth in value["depths"]] == [0, 10, 30]
    assert (value["prompt_tokens"], value["new_tokens"], value["rounds"]) == (8, 4, 1)
    assert [line.split()[0] for line in result.err.splitlines()] == ["start", "measure"]


def test_people_get_a_table(edgewise, bundle):
    result = edgewise("bench", bundle, *SMALL, "--history", "10")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == "fake, fp32, fake, 1 thread; 8 prompt tokens, 4 new tokens, 1 round"
    assert [line.strip().split("  ")[0] for line in lines[1:]] == [
        "prefill",
        "decode",
        "prefill after 10",
        "decode after 10",
        "decode to text",
        "load",
        "cold start to first token",
        "peak RSS",
        "anonymous RSS",
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--prompt-tokens", "0"], "prompt_tokens is 0"),
        (["--new-tokens", "-1"], "new_tokens is -1"),
        (["--history", "-1"], "history is -1"),
        (["--rounds", "0"], "rounds is 0"),
        (["--rounds", "100000"], "rounds is 100000"),
        (["--threads", "0"], "threads is 0"),
        (["--prompt-tokens", "200", "--new-tokens", "57"], "holds 256"),
        (["--history", "256"], "holds 256"),
    ],
)
def test_numbers_that_make_no_sense(edgewise, bundle, options, expected):
    result = edgewise("bench", bundle, *options)
    assert result.code == 2
    message = result.err.splitlines()[-1]
    assert message.startswith("Error: ")
    assert expected in message
    assert "Traceback" not in result.err


def test_a_bundle_that_is_not_there(edgewise, tmp_path):
    assert "is not a folder" in edgewise("bench", tmp_path / "none").mistake()


def test_an_encoder_has_a_table_of_lengths(edgewise, tmp_path):
    bundle = write_fake_encoder_bundle(tmp_path / "b")
    result = edgewise("bench", bundle, "--length", "4", "--length", "9", "--rounds", "1")
    assert result.code == 0
    first, *lines = result.out.splitlines()
    assert first == "fake, fp32, fake, 1 thread; batches of 8, 1 round"
    assert [line.strip().split("  ")[0] for line in lines] == [
        "4 tokens, one text",
        "4 tokens, batches",
        "9 tokens, one text",
        "9 tokens, batches",
        "load",
        "cold start to first token",
        "peak RSS",
        "anonymous RSS",
    ]
    assert ", p90 " in lines[0]
    assert " texts/s [" in lines[1]
    assert "without meaning" in edgewise("bench", bundle, "--new-tokens", "3").mistake()


def test_an_encoder_decoder_encodes_and_decodes(edgewise, tmp_path):
    bundle = write_fake_sequence_bundle(tmp_path / "b")
    result = edgewise("bench", bundle, *SMALL)
    first, *lines = result.out.splitlines()
    assert first == "fake, fp32, fake, 1 thread; 8 source tokens, 4 new tokens, 1 round"
    assert [line.split()[0] for line in lines] == [
        *("encode", "decode", "decode", "load", "cold", "peak", "anonymous")
    ]

"""``edgewise run``: answers that keep to a format, several of them, and their probabilities."""

import json
import math

import pytest

from edgewise.runtime.backends.fake_bundle import (
    write_fake_encoder_bundle,
    write_fake_sequence_bundle,
)
from edgewise.runtime.loading import load
from edgewise.runtime.options import GenerationOptions

SCHEMA = {
    "type": "object",
    "properties": {"degrees": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["degrees"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def encoder_bundle(tmp_path_factory):
    return write_fake_encoder_bundle(tmp_path_factory.mktemp("bundles") / "encoder")


@pytest.fixture(scope="module")
def sequence_bundle(tmp_path_factory):
    return write_fake_sequence_bundle(tmp_path_factory.mktemp("bundles") / "t5")


def test_json_that_a_schema_accepts(edgewise, bundle, tmp_path):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA), encoding="utf-8-sig")  # as some editors write it
    for seed in range(5):
        flags = ("--raw", "--temperature", "5", "--seed", seed, "--schema", file)
        value = json.loads(edgewise("run", bundle, "Hi", *flags).out)
        assert value.keys() == {"degrees"}
        assert 0 <= value["degrees"] <= 99


def test_an_expression_choices_and_a_grammar(edgewise, bundle, tmp_path):
    def text(*flags):
        result = edgewise("run", bundle, "Hi", "--raw", *flags)
        assert result.code == 0, result
        return result.out

    assert text("--regex", "[xy]{3}z").rstrip("z\n").strip("xy") == ""
    assert text("--choice", "Rhine", "--choice", "Nile") in ("Rhine\n", "Nile\n")
    assert text("--choice", "Nile") == "Nile\n"
    file = tmp_path / "sum.lark"
    file.write_text('start: "1" "+" "2"\n')
    assert text("--grammar", file) == "1+2\n"


def test_formats_that_can_not_be_used(edgewise, bundle, tmp_path):
    def mistake(*flags):
        return edgewise("run", bundle, "Hi", *flags).mistake()

    absent = tmp_path / "absent.json"
    assert mistake("--schema", absent) == f"{absent} can not be read: No such file or directory."
    file = tmp_path / "schema.json"
    file.write_bytes(b"\xff")
    assert mistake("--schema", file) == f"{file} is not UTF-8 (byte 0)."
    file.write_bytes(b" " * 65_537)
    assert mistake("--grammar", file) == f"{file} has more than 65536 bytes, too many to follow."
    file.write_text("[]")
    assert mistake("--schema", file) == "the schema is []; accepted: a JSON object"
    file.write_text('{"type": "objekt"}')
    assert "the json format can not be used: " in mistake("--schema", file)
    assert "the regex format can not be used: " in mistake("--regex", "(a")
    both = mistake("--regex", "a", "--choice", "b")
    assert "--regex and --choice: an answer keeps to one format; give one of them." in both
    assert "the regex format holds half of a surrogate pair at 0" in mistake("--regex", "\udcff")


def test_a_format_has_no_meaning_where_texts_are_judged(edgewise, encoder_bundle):
    message = edgewise("run", encoder_bundle, "Hi", "--choice", "a", "--n", "2").mistake()
    assert "--choice, --n: without meaning for the task" in message


def test_several_answers(edgewise, bundle):
    flags = ("--raw", "--max-tokens", "8", "--temperature", "4", "--seed", "5")
    result = edgewise("run", bundle, "Hi", *flags, "--n", "3", "--json")
    answers = json.loads(result.out)
    with load(bundle) as model:
        options = GenerationOptions(max_tokens=8, raw=True, temperature=4.0, seed=5)
        expected = [model.generate("Hi", options.numbered(index)) for index in range(3)]
    assert [answer["token_ids"] for answer in answers] == [list(one.token_ids) for one in expected]
    plain = edgewise("run", bundle, "Hi", *flags, "--n", "3")
    assert plain.out == "\n".join(f"{one.text}\n" for one in expected)
    assert plain.err.count(" generated") == 3


def test_where_several_answers_have_no_place(edgewise, bundle, encoder_bundle, sequence_bundle):
    hot = ("--temperature", "1")
    message = edgewise("run", bundle, "Hi", "--n", "2").mistake()
    assert "n is 2 with the temperature 0" in message
    assert "from 1 to 64" in edgewise("run", bundle, "Hi", *hot, "--n", "65").mistake()
    streamed = edgewise("run", bundle, "Hi", *hot, "--n", "2", "--json", "--stream").mistake()
    assert "--n gives whole answers, so --stream has no place." in streamed
    message = edgewise("run", sequence_bundle, "Hi", *hot, "--n", "2").mistake()
    assert "--n has a place only where a decoder answers a text." in message


def test_log_probabilities(edgewise, bundle):
    flags = ("Hi", "--max-tokens", "4", "--json", "--logprobs", "2")
    value = json.loads(edgewise("run", bundle, *flags).out)
    told = value["logprobs"]
    assert [one["token_id"] for one in told] == value["token_ids"]
    assert "".join(one["text"] for one in told) == value["text"] == "The "
    for one in told:
        best, second = one["likeliest"]
        assert best == {name: one[name] for name in ("token_id", "text", "logprob")}
        assert second["logprob"] < best["logprob"] <= 0.0
        assert math.exp(best["logprob"]) > 0.99  # the fake model is sure of its reply
    lines = edgewise("run", bundle, *flags, "--stream").out.splitlines()
    streamed = [json.loads(line)["logprobs"] for line in lines]
    assert [one for piece in streamed for one in piece] == told


def test_log_probabilities_need_json(edgewise, bundle):
    assert "--logprobs needs --json." in edgewise("run", bundle, "Hi", "--logprobs", "1").mistake()
    message = edgewise("run", bundle, "Hi", "--json", "--logprobs", "21").mistake()
    assert message == "logprobs is 21; accepted: a whole number from 0 to 20"


@pytest.mark.parametrize("breaker", ["a", "b"])
def test_breakers_reach_the_sampler(edgewise, bundle, breaker):
    """After "abcab", c would go on as before, unless the sequence is cut within "ab"."""
    with load(bundle) as model:
        (c,) = model.tokenizer.encode("c")
    likely = ("--raw", "--max-tokens", "1", "--logit-bias", f"{c}=30", "--dry-multiplier", "50")

    def text(*options):
        return edgewise("run", bundle, "abcab", *likely, *options).out

    assert text("--dry-breaker", "z") != "c\n"
    assert text("--dry-breaker", breaker) == "c\n"

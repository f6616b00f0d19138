"""Formats over a vocabulary of bytes and a few longer tokens, against independent acceptors."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.output_format import (
    CHOICES_MAX,
    FORMAT_MAX_BYTES,
    FormatError,
    OutputFormat,
)

SCHEMA = {
    "type": "object",
    "properties": {
        "place": {"enum": ["greenhouse", "cellar"]},
        "degrees": {"type": "integer", "minimum": -9, "maximum": 99},
        "open": {"type": "boolean"},
    },
    "required": ["place", "degrees", "open"],
    "additionalProperties": False,
}


def write(compiler, tokenizer, output_format, random, *, limit=400):
    """Answer with random logits; return the text and how many tokens were chosen and forced."""
    constraint = compiler.compile(output_format)
    answer, chosen = [*constraint.forced()], 0
    while not constraint.complete and len(answer) < limit:
        constraint.begin_mask()
        logits = random.normal(size=tokenizer.get_vocab_size() + 5).astype(np.float32)
        constraint.apply(logits)
        token = int(logits.argmax())
        assert np.isfinite(logits[token])
        chosen += 1
        if token == 0:
            break
        constraint.accept(token)
        answer += [token, *constraint.forced()]
    return tokenizer.decode(answer), chosen, len(answer)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_the_model_says_the_json_is_valid(byte_compiler, byte_tokenizer, seed):
    output_format = OutputFormat.json_schema(SCHEMA)
    text, chosen, total = write(
        byte_compiler, byte_tokenizer, output_format, np.random.default_rng(seed)
    )
    value = json.loads(text)
    assert set(value) == {"place", "degrees", "open"}
    assert value["place"] in ("greenhouse", "cellar")
    assert isinstance(value["degrees"], int)
    assert -9 <= value["degrees"] <= 99
    assert isinstance(value["open"], bool)
    written = text.replace(":-0,", ":0,")  # -0 is a number of JSON too
    assert written == json.dumps(value, separators=(",", ":"))
    assert chosen <= 8 < total  # a choice a value; everything between them is forced


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_an_expression_is_matched_as_a_whole(byte_compiler, byte_tokenizer, seed):
    output_format = OutputFormat.regex("[a-c]{2,4}-[0-9]+x")
    text, *_ = write(byte_compiler, byte_tokenizer, output_format, np.random.default_rng(seed))
    assert re.fullmatch("[a-c]{2,4}-[0-9]+x", text)


def test_every_choice_can_be_made_and_no_other(byte_compiler, byte_tokenizer):
    choices = ("yes", 'no "really"', "ähm\n")
    random = np.random.default_rng(0)
    seen = {
        write(byte_compiler, byte_tokenizer, OutputFormat.choice(choices), random)[0]
        for _ in range(60)
    }
    assert seen == set(choices)


def test_a_grammar_is_followed(byte_compiler, byte_tokenizer):
    grammar = 'start: "(" start ")" | "x"'
    random = np.random.default_rng(1)
    for _ in range(20):
        text, *_ = write(byte_compiler, byte_tokenizer, OutputFormat.lark(grammar), random)
        depth = (len(text) - 1) // 2
        assert text == "(" * depth + "x" + ")" * depth


def test_rows_of_padding_are_never_allowed(byte_compiler, byte_tokenizer):
    constraint = byte_compiler.compile(OutputFormat.regex("(?s:.*)"))
    logits = np.zeros(byte_tokenizer.get_vocab_size() + 5, np.float32)
    constraint.apply(logits)
    assert np.isneginf(logits[-5:]).all()
    assert np.isfinite(logits[0])  # the end, for nothing is a match too


@pytest.mark.parametrize(
    ("output_format", "message"),
    [
        (OutputFormat.json_schema({"type": "objekt"}), "json format can not be used: .*objekt"),
        (OutputFormat.regex("(a"), "regex format can not be used: .*unclosed group$"),
        (OutputFormat.lark("start: foo"), "lark format can not be used: .*unknown name"),
    ],
)
def test_what_can_not_be_compiled_is_refused_in_one_line(byte_compiler, output_format, message):
    with pytest.raises(FormatError, match=message) as caught:
        byte_compiler.compile(output_format)
    assert "\n" not in str(caught.value)


def test_a_token_that_may_not_come_is_refused(byte_compiler, byte_tokenizer):
    constraint = byte_compiler.compile(OutputFormat.choice(["yes", "no"]))
    with pytest.raises(FormatError, match="can not be followed"):
        constraint.accept(byte_tokenizer.token_to_id("x"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: OutputFormat("yaml", "x"),
        lambda: OutputFormat.regex(""),
        lambda: OutputFormat.regex("a" * (FORMAT_MAX_BYTES + 1)),
        lambda: OutputFormat.regex("\ud800"),
        lambda: OutputFormat.json_schema("{"),
        lambda: OutputFormat.json_schema("[1]"),
        lambda: OutputFormat.json_schema({"minimum": float("nan")}),
        lambda: OutputFormat.choice([]),
        lambda: OutputFormat.choice("yes"),
        lambda: OutputFormat.choice(["yes", ""]),
        lambda: OutputFormat.choice(["x"] * (CHOICES_MAX + 1)),
    ],
)
def test_formats_that_are_none(make):
    with pytest.raises(FormatError):
        make()


def test_the_choices_are_read_back():
    assert OutputFormat.choice(["a", "ü"]).choices == ("a", "ü")
    assert OutputFormat.regex("a").choices == ()

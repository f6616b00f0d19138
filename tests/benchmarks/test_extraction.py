"""The task of extraction: its prompts, and what counts as valid by its schema."""

import json

import extraction
import pytest

VALID = {
    "device_name": "pump-17",
    "place": "roof",
    "temperature_celsius": 71,
    "pressure_kilopascal": 400,
    "operating_hours": 812,
    "machine_state": "warning",
    "needs_maintenance": True,
}


def test_an_object_of_the_schema_is_valid():
    assert extraction.is_valid(json.dumps(VALID))
    assert extraction.is_valid(f" {json.dumps(VALID, indent=1)}\n")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("device_name", "x" * 25),
        ("device_name", 17),
        ("place", "garden"),
        ("temperature_celsius", 151),
        ("temperature_celsius", -41),
        ("temperature_celsius", 71.5),
        ("pressure_kilopascal", True),
        ("operating_hours", "812"),
        ("machine_state", None),
        ("needs_maintenance", 1),
        ("another", 1),
    ],
)
def test_what_the_schema_refuses_is_not_valid(key, value):
    assert not extraction.is_valid(json.dumps({**VALID, key: value}))


def test_text_that_is_cut_short_or_lacks_a_key_is_not_valid():
    whole = json.dumps(VALID)
    assert not extraction.is_valid(whole[:-1])
    assert not extraction.is_valid("[]")
    assert not extraction.is_valid(json.dumps({k: v for k, v in VALID.items() if k != "place"}))


def test_the_schema_is_one_that_formats_take_and_accepts_what_counts_as_valid():
    llguidance = pytest.importorskip("llguidance")
    tokenizer = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(extraction.SCHEMA))

    def accepts(value):
        matcher = llguidance.LLMatcher(tokenizer, grammar)
        tokens = tokenizer.tokenize_str(json.dumps(value))
        return matcher.consume_tokens(tokens) and matcher.is_accepting()

    assert accepts(VALID)
    assert not accepts({**VALID, "temperature_celsius": 151})
    assert not accepts({**VALID, "place": "garden"})


def test_reports_differ_and_hold_what_is_asked_for():
    prompts = [extraction.prompt(number) for number in range(8)]
    assert len(set(prompts)) == 8
    assert prompts[3] == extraction.prompt(3)
    for text in prompts:
        assert text.endswith("JSON:")
        assert all(key in text for key in extraction.SCHEMA["required"])

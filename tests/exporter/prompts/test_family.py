"""Families' files are read strictly, and every one that ships is right."""

from __future__ import annotations

import copy
import tomllib
from typing import Any

import pytest

from edgewise.exporter.prompts import PromptError, families, parse_family, prompt_names

WHOLE = """
title = "T"
source = "S"
[match]
model_types = ["llama"]
token_ids = { "</s>" = 2 }
[ids]
reason = "R"
end = [2]
[prompts.one]
description = "D"
template = "{{ messages }}"
stop = ["x"]
ends_source = false
[prompts.one.match]
name = "a+"
"""


def content() -> dict[str, Any]:
    return copy.deepcopy(tomllib.loads(WHOLE))


def test_a_file_is_read_whole() -> None:
    family = parse_family(content(), subject="x.toml")
    assert (family.title, family.source) == ("T", "S")
    assert family.match.model_types == ("llama",)
    assert family.match.token_ids == {"</s>": 2}
    assert family.ids is not None
    assert (family.ids.reason, family.ids.end, family.ids.beginning) == ("R", (2,), None)
    prompt = family.prompts["one"]
    assert (prompt.name, prompt.stop, prompt.ends_source) == ("one", ("x",), False)
    assert prompt.match is not None
    assert prompt.match.name == "a+"


def test_names_are_unique_over_all_files() -> None:
    assert len(set(prompt_names())) == sum(len(family.prompts) for family in families())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("title", None, r"title is missing \(a text\)"),
        ("title", 3, "title is 3; accepted: a text"),
        ("titel", "x", r"titel is no field \(did you mean 'title'\?\)"),
        ("match", None, "match is missing .*; match has no condition"),
        ("match", {}, "match has no condition, so that it would mean every checkpoint"),
        (
            "match.model_type",
            "llama",
            r"match\.model_type is no field \(did you mean 'model_types'",
        ),
        ("match.model_types", "llama", r"match\.model_types is 'llama'; accepted: a list of texts"),
        ("match.vocabulary_sizes", [True], r"vocabulary_sizes is \[True\]; .*whole numbers"),
        ("match.hidden_sizes", [-1], r"hidden_sizes is \[-1\]; .*whole numbers"),
        ("match.token_ids", {"a": "b"}, r"token_ids is .*a table of ids by text"),
        ("match.name", "(", r"match\.name is '\('; accepted: a regular expression"),
        ("ids.reason", None, r"ids\.reason is missing"),
        ("ids.end", 2, r"ids\.end is 2; accepted: a list of whole numbers"),
        ("ids.padding", "x", r"ids\.padding is 'x'; accepted: a whole number"),
        ("ids.eos", 2, r"ids\.eos is no field"),
        ("prompts.one.template", None, r"prompts\.one\.template is missing"),
        ("prompts.one.stop", None, r"prompts\.one\.stop is missing"),
        ("prompts.one.stop", [""], r"prompts\.one\.stop is \[''\]; accepted: up to 32 texts"),
        ("prompts.one.ends_source", 1, r"ends_source is 1; accepted: true or false"),
        ("prompts.one.match.nam", "x", r"prompts\.one\.match\.nam is no field"),
        ("prompts.one", "x", r"prompts is .*; accepted: a table of tables"),
    ],
)
def test_faults_are_named(path: str, value: object, message: str) -> None:
    whole = content()
    *folders, key = path.split(".")
    table = whole
    for folder in folders:
        table = table[folder]
    if value is None:
        del table[key]
    else:
        table[key] = value
    with pytest.raises(PromptError, match=f"x.toml is faulty: .*{message}"):
        parse_family(whole, subject="x.toml")


def test_a_file_without_content_is_refused() -> None:
    whole = content()
    del whole["ids"], whole["prompts"]
    with pytest.raises(PromptError, match="there are neither prompts nor ids"):
        parse_family(whole, subject="x.toml")

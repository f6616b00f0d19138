"""Every prompt gives the bytes that its model was trained with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewise.exporter.probes import CHAT_MESSAGES
from edgewise.exporter.prompts import Prompt, PromptError, find_prompt, prompt_names
from edgewise.runtime.chat import ChatError, ChatTemplate, check_messages
from edgewise.runtime.manifest import SpecialTokens

GOLDENS = Path(__file__).parents[2] / "data" / "prompts"


def rendered(prompt: Prompt, messages: object, *, add_generation_prompt: bool = True) -> str:
    tokens = SpecialTokens(
        beginning=None,
        end=(),
        padding=None,
        add_beginning=False,
        beginning_text=None,
        end_text=None,
    )
    template = ChatTemplate(prompt.template, tokens)
    return template.render(check_messages(messages), add_generation_prompt=add_generation_prompt)


def test_every_prompt_has_goldens() -> None:
    assert sorted(path.stem for path in GOLDENS.glob("*.json")) == list(prompt_names())


@pytest.mark.parametrize("name", prompt_names())
def test_bytes_and_stop_texts(name: str) -> None:
    golden = json.loads((GOLDENS / f"{name}.json").read_text())
    prompt = find_prompt(name)
    assert list(prompt.stop) == golden["stop"]
    for case in golden["cases"]:
        assert rendered(prompt, case["messages"]) == case["rendered"]


def test_orca_2_begins_with_its_beginning_token_and_a_space() -> None:
    tokens = SpecialTokens(
        beginning=1,
        end=(2, 32002),
        padding=32000,
        add_beginning=True,
        beginning_text="<s>",
        end_text="</s>",
    )
    template = ChatTemplate(find_prompt("orca-2").template, tokens)
    messages = check_messages([{"role": "user", "content": "U"}])
    assert template.render(messages, add_generation_prompt=True) == (
        "<s> <|im_start|>system\n<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant"
    )


@pytest.mark.parametrize("name", prompt_names())
def test_every_prompt_takes_the_sample_of_an_export(name: str) -> None:
    prompt = find_prompt(name)
    content = prompt.sample or CHAT_MESSAGES[0]["content"]
    assert rendered(prompt, [{"role": "user", "content": content}])


@pytest.mark.parametrize("name", ["tinyllama-chat", "orca-2", "phi-2-instruct", "phi-answer"])
def test_what_the_answer_begins_with_can_be_left_out(name: str) -> None:
    messages = [{"role": "user", "content": "U"}]
    prompt = find_prompt(name)
    without = rendered(prompt, messages, add_generation_prompt=False)
    whole = rendered(prompt, messages)
    assert whole.startswith(without)
    assert len(without) < len(whole)


@pytest.mark.parametrize(
    ("name", "messages", "message"),
    [
        ("phi-2-instruct", [("system", "S"), ("user", "U")], "no place for a system message"),
        ("litellama-qa", [("system", "S"), ("user", "U")], "no place for a system message"),
        ("phi-answer", [("system", "S"), ("user", "U")], "no place for a system message"),
        ("tinygsm", [("user", "U"), ("assistant", "A")], "one message of the user"),
        ("phi-1-docstring", [("user", "print primes")], "the header of a function"),
        ("flan-options", [("system", "S")], "one message of the user"),
        ("ul2-nlu", [("user", "no gap")], "write <extra_id_0> where"),
        ("ul2-s2s", [("assistant", "A")], "one message of the user"),
    ],
)
def test_what_a_prompt_has_no_place_for(
    name: str, messages: list[tuple[str, str]], message: str
) -> None:
    given = [{"role": role, "content": content} for role, content in messages]
    with pytest.raises(ChatError, match=message):
        rendered(find_prompt(name), given)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        PromptError, match=r"'orca2' is unknown \(did you mean 'orca-2'\?\); .*ul2-"
    ):
        find_prompt("orca2")

import threading
from datetime import datetime
from pathlib import Path

import pytest

from edgewise.runtime.bundle import Bundle, ChatSample, SpecialTokens
from edgewise.runtime.chat import (
    OUTPUT_MAX_LENGTH,
    TEMPLATE_MAX_LENGTH,
    TURNS_MAX,
    ChatError,
    ChatTemplate,
    check_messages,
)

TOKENS = SpecialTokens(1, (2,), None, True, "<s>", "</s>")
NO_TOKENS = SpecialTokens(None, (2,), None, False, None, None)
USER = [{"role": "user", "content": "Hi"}]
TALK = [
    {"role": "system", "content": "Be brief."},
    *USER,
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": ' 1 < 2 & "so"\n'},
]

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)


def render(source, messages=USER, tokens=TOKENS, **values):
    return ChatTemplate(source, tokens).render(messages, **values)


def test_chatml():
    assert render(CHATML) == (
        "<|im_start|>system\nYou are helpful<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert render(CHATML, TALK, add_generation_prompt=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n"
        '<|im_start|>user\n 1 < 2 & "so"\n<|im_end|>\n'
    )


def test_llama_2():
    assert render(LLAMA_2, TALK) == (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s>"
        '<s>[INST] 1 < 2 & "so" [/INST]'
    )
    with pytest.raises(ChatError, match="refuses these messages: roles must alternate"):
        render(LLAMA_2, USER * 2)


@pytest.mark.real
def test_the_template_of_smollm2(smollm2_template):
    assert render(smollm2_template, tokens=NO_TOKENS) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_blocks_are_trimmed_as_in_transformers():
    source = "  {% if true %}\n{{ 'a' }}\n  {% endif %}\n  {% for m in messages %}\nx\n{% endfor %}"
    assert render(source) == "a\nx\n"


def test_break_continue_and_generation():
    source = (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
        "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{% generation %}{{ messages[0].content }}{% endgeneration %}"
    )
    assert render(source) == "023Hi"


def test_json_is_not_escaped_for_html():
    assert render("{{ {'b': '<é>', 'a': 1} | tojson }}") == '{"b": "<é>", "a": 1}'
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=2) }}") == '{\n  "b": 1,\n  "a": 2\n}'


def test_the_moment_can_be_fixed():
    source = "{{ strftime_now('%d %b %Y') }}"
    assert render(source, moment=datetime(2024, 7, 26)) == "26 Jul 2024"
    assert render(source) == datetime.now().strftime("%d %b %Y")


def test_names_that_templates_ask_for():
    assert render("{{ tools is none }}{{ documents is none }}") == "TrueTrue"
    assert render("{{ bos_token }}|{{ eos_token }}") == "<s>|</s>"
    assert render("{{ bos_token }}|{{ eos_token is defined }}", tokens=NO_TOKENS) == "|False"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(content='x') }}",
        "{% set x = cycler.__init__.__globals__ %}{{ x.os }}",
        "{{ raise_exception.__globals__.os }}",
        "{{ strftime_now.__self__.count_turn() }}",
        "{% include 'other' %}",
        "{% import 'os' as os %}",
        "{{ messages[7].content.upper() }}",
        "{{ 1 / 0 }}",
        "{{ messages | nothing }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_what_a_template_may_not_do(source):
    with pytest.raises(ChatError):
        render(source)


RECURSION = (
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
)
RECURSION_BY_CALL = (
    "{% macro m(n) %}{{ caller() if n == 0 }}{% if n %}{% call m(n - 1) %}{% endcall %}"
    "{% call m(n - 1) %}{% endcall %}{% endif %}{% endmacro %}{% call m(60) %}{% endcall %}"
)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "turns"),
        (RECURSION, "turns"),
        (RECURSION_BY_CALL, "turns"),
        ("{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "writes more than"),
        ("{{ 'x' * 999999999 }}", "repeats a text to 999999999"),
        ("{{ 999999999 * [1] }}", "repeats a text to 999999999"),
        ("{{ 9 ** 999999999 }}", "power"),
        ("{{ range(10 ** 9) | list }}", "OverflowError"),
    ],
)
def test_limits(source, match):
    with pytest.raises(ChatError, match=match):
        render(source)


def test_the_limits_hold_for_each_rendering():
    source = f"{{% for a in range({TURNS_MAX // 2}) %}}{{% endfor %}}{{{{ 3 * 'ab' * 2 ** 1 }}}}"
    template = ChatTemplate(source, TOKENS)
    assert {template.render(USER) for _ in range(3)} == {"ab" * 6}


@pytest.mark.parametrize("source", ["{% for %}", "{{ a", "{% endif %}", "{% unknown %}"])
def test_a_source_that_is_no_template(source):
    with pytest.raises(ChatError, match="is no Jinja template"):
        ChatTemplate(source, TOKENS)


def test_a_source_that_is_too_long():
    with pytest.raises(ChatError, match="characters; accepted"):
        ChatTemplate("x" * (TEMPLATE_MAX_LENGTH + 1), TOKENS)
    assert OUTPUT_MAX_LENGTH > TEMPLATE_MAX_LENGTH


def test_messages_are_copied():
    assert check_messages(TALK) == tuple(TALK)
    assert check_messages(tuple(USER)) == ({"role": "user", "content": "Hi"},)


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ([], "at least one"),
        ("Hi", "at least one"),
        (None, "at least one"),
        ({"role": "user", "content": "Hi"}, "at least one"),
        ([*USER, "Hi"], "message 1 is 'Hi'"),
        ([{"role": "user"}], "message 0 is"),
        ([{"role": "user", "content": "Hi", "name": "x"}], "message 0 is"),
        ([{"role": "tool", "content": "Hi"}], "the role 'tool'; accepted: system, user, assistant"),
        ([{"role": ["user"], "content": "Hi"}], "the role"),
        ([{"role": "user", "content": ["Hi"]}], "the content"),
        ([{"role": "user", "content": None}], "the content None"),
    ],
)
def test_malformed_messages(messages, match):
    with pytest.raises(ChatError, match=match):
        check_messages(messages)


def bundle_with(manifest_maker, folder: Path, source: str, rendered: str) -> Bundle:
    (folder / "chat_template.jinja").write_text(source)
    sample = ChatSample(({"role": "user", "content": "Hi"},), rendered)
    return Bundle(folder, manifest_maker(chat=sample))


def test_the_sample_of_a_bundle_is_checked(tmp_path, manifest_maker):
    source = "{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}"
    bundle = bundle_with(manifest_maker, tmp_path, source, "2026-01-01 Hi")
    template = ChatTemplate.open(bundle)
    assert template is not None
    assert template.render(USER, moment=datetime(2030, 5, 5)) == "2030-05-05 Hi"
    other = bundle_with(manifest_maker, tmp_path, source, "2026-01-01 Ho")
    with pytest.raises(ChatError, match=r"renders its sample as '2026-01-01 Hi'.*Ho"):
        ChatTemplate.open(other)


def test_a_bundle_without_a_template(tmp_path, manifest_maker):
    files = tuple(file for file in manifest_maker().files if file.role != "chat_template")
    assert ChatTemplate.open(Bundle(tmp_path, manifest_maker(chat=None, files=files))) is None


def test_threads_render_side_by_side():
    template = ChatTemplate(
        "{% for a in range(2000) %}{% endfor %}{{ strftime_now('%Y') }}", TOKENS
    )
    years = []

    def work(year):
        years.append((year, {template.render(USER, moment=datetime(year, 1, 1)) for _ in range(8)}))

    threads = [threading.Thread(target=work, args=(year,)) for year in (2001, 2002, 2003)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(years) == [(year, {str(year)}) for year in (2001, 2002, 2003)]

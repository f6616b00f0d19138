"""Tokenizers rebuilt from GGUF fields give the ids that llama.cpp and SentencePiece give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgewise.exporter.checkpoint import CheckpointError, TokenizerFiles, open_checkpoint
from edgewise.exporter.checkpoint.gguf_fields import GgufFields
from edgewise.exporter.checkpoint.gguf_tokenizer import rebuild_tokenizer

GOLDENS = Path(__file__).parents[2] / "data" / "tokenizers"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
FIRST = ["<unk>", "<s>", "</s>", *BYTES]
FIRST_TYPES = [2, 3, 3, *([6] * 256)]


def rebuilt(fields: Mapping[str, Any]) -> TokenizerFiles:
    return rebuild_tokenizer(GgufFields(fields, "small.gguf"), 1_000_000)


def sentence_piece_fields(scores: Mapping[str, float], **more: Any) -> dict[str, Any]:
    """The fields of a SentencePiece vocabulary whose normal pieces have these scores."""
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*FIRST, *scores],
        "tokenizer.ggml.token_type": [*FIRST_TYPES, *([1] * len(scores))],
        "tokenizer.ggml.scores": [0.0] * len(FIRST) + [float(score) for score in scores.values()],
    } | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def merge_by_brute_force(text: str, scores: Mapping[str, float]) -> tuple[list[str], bool]:
    """SentencePiece's rule: join the best-scored adjacent pair, the leftmost first, until none is.

    Returns the pieces, and whether at some step one piece could be made of different pairs, which
    ranked pairs can not tell apart.
    """
    symbols = list(text)
    ambiguous = False
    while True:
        found: dict[str, list[int]] = {}
        for index in range(len(symbols) - 1):
            found.setdefault(symbols[index] + symbols[index + 1], []).append(index)
        joined = [piece for piece in found if piece in scores]
        if not joined:
            return symbols, ambiguous
        best = max(joined, key=lambda piece: scores[piece])
        ambiguous |= len({symbols[index] for index in found[best]}) > 1
        index = found[best][0]
        symbols[index : index + 2] = [best]


def encode_by_brute_force(
    text: str, scores: Mapping[str, float], *, prefix: bool
) -> tuple[list[int], bool]:
    ids = {piece: len(FIRST) + number for number, piece in enumerate(scores)}
    spaced = (f" {text}" if prefix and text else text).replace(" ", "▁")
    symbols, ambiguous = merge_by_brute_force(spaced, scores)
    result = []
    for symbol in symbols:
        result += [ids[symbol]] if symbol in ids else [3 + byte for byte in symbol.encode()]
    return result, ambiguous


@st.composite
def trained_vocabularies(draw: st.DrawFn) -> dict[str, float]:
    """Pieces joined from characters, each of a score of its own, in any order of ids."""
    pieces = ["▁", "a", "b", "c"]
    for _ in range(draw(st.integers(0, 14))):
        pieces.append(draw(st.sampled_from(pieces)) + draw(st.sampled_from(pieces)))
    unique = [piece for piece in dict.fromkeys(pieces) if len(piece) <= 8]
    by_rank = {piece: -float(rank) for rank, piece in enumerate(unique)}
    return {piece: by_rank[piece] for piece in draw(st.permutations(unique))}


@settings(max_examples=400, deadline=None)
@given(
    scores=trained_vocabularies(),
    text=st.text(alphabet=" aabbcé🙂", max_size=24),
    prefix=st.booleans(),
)
def test_sentence_piece_equals_brute_force(
    scores: dict[str, float], text: str, prefix: bool
) -> None:
    expected, ambiguous = encode_by_brute_force(text, scores, prefix=prefix)
    assume(not ambiguous)
    files = rebuilt(sentence_piece_fields(scores, add_space_prefix=prefix, add_bos_token=False))
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert tokenizer.encode(text).ids == expected
    assert tokenizer.decode(expected) == text


@pytest.mark.parametrize("name", ["sentencepiece-prefix", "sentencepiece-plain"])
def test_sentence_piece_equals_llama_cpp(name: str) -> None:
    golden = json.loads((GOLDENS / f"{name}.json").read_text())
    files = rebuilt({"tokenizer.ggml.model": "llama", **golden["fields"]})
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert files.add_beginning_token
    for case in golden["cases"]:
        assert tokenizer.encode(case["text"]).ids == case["ids"], case["text"]


@pytest.mark.real
@pytest.mark.parametrize("path", sorted(GOLDENS.glob("smollm2-*.json")), ids=lambda path: path.stem)
def test_byte_level_bpe_equals_llama_cpp(path: Path, smollm2_fields: Mapping[str, Any]) -> None:
    golden = json.loads(path.read_text())
    files = rebuilt({**smollm2_fields, "tokenizer.ggml.pre": golden["pre_tokenizer"]})
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert len(golden["cases"]) >= 20
    for case in golden["cases"]:
        ids = tokenizer.encode(case["text"], add_special_tokens=False).ids
        assert ids == case["ids"], case["text"]
        assert tokenizer.decode(ids, skip_special_tokens=False) == case["text"]


def test_sentence_piece_defaults_are_those_of_llama() -> None:
    files = rebuilt(sentence_piece_fields({"▁": -1.0, "a": -2.0, "▁a": -3.0}))
    assert (files.beginning_token_id, files.beginning_token) == (1, "<s>")
    assert (files.end_token_ids, files.end_token) == ((2,), "</s>")
    assert files.padding_token_id is None
    assert files.add_beginning_token
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert tokenizer.encode("a").tokens == ["<s>", "▁a"]
    assert tokenizer.encode("a", add_special_tokens=False).tokens == ["▁a"]
    assert tokenizer.encode("a", "a").tokens == ["<s>", "▁a", "<s>", "▁a"]


def test_without_bytes_a_foreign_character_is_the_unknown_token() -> None:
    fields = sentence_piece_fields({})
    fields |= {
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "▁", "a"],
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 1],
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0, -2.0],
    }
    tokenizer = Tokenizer.from_str(rebuilt(fields).tokenizer_json)
    assert tokenizer.encode("aéé a").tokens == ["<s>", "▁", "a", "<unk>", "▁", "a"]


def test_added_tokens_have_their_flags(make_gguf: Any) -> None:
    path, _ = make_gguf()
    with open_checkpoint(str(path)) as checkpoint:
        files = checkpoint.tokenizer
    added = {entry["content"]: entry for entry in json.loads(files.tokenizer_json)["added_tokens"]}
    assert {text: entry["special"] for text, entry in added.items()} == {
        "<|endoftext|>": True,
        "<|im_start|>": True,
        "<|im_end|>": True,
        "<tool>": False,
    }
    assert not any(entry["normalized"] or entry["lstrip"] for entry in added.values())
    assert files.chat_template == "{{ messages[0]['content'] }}"
    assert (files.beginning_token, files.end_token) == ("<|im_start|>", "<|im_end|>")
    assert files.end_token_ids == (2, 0)
    assert files.padding_token_id == 2
    assert not files.add_beginning_token
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert tokenizer.encode("the<|im_end|> the<tool>12").tokens == [
        "t", "he", "<|im_end|>", "Ġthe", "<tool>", "1", "2",
    ]  # fmt: skip
    assert tokenizer.decode([2, 3], skip_special_tokens=True) == "<tool>"


@pytest.mark.parametrize(
    ("pre_tokenizer", "said", "prepends"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("smollm", None, False),
     ("smollm", True, True)],
)  # fmt: skip
def test_the_beginning_token_is_prepended_as_the_file_or_the_kind_says(
    make_gguf: Any, pre_tokenizer: str, said: bool | None, prepends: bool
) -> None:
    fields = {"tokenizer.ggml.pre": pre_tokenizer, "tokenizer.ggml.add_bos_token": said}
    path, _ = make_gguf(fields=fields)
    with open_checkpoint(str(path)) as checkpoint:
        files = checkpoint.tokenizer
    assert files.add_beginning_token is prepends
    ids = Tokenizer.from_str(files.tokenizer_json).encode("t").ids
    assert (ids[0] == files.beginning_token_id) is prepends


def test_what_the_conversion_put_in_to_fill_the_embedding_is_left_out() -> None:
    fields = sentence_piece_fields({"a": -1.0, "[PAD": -2.0, "]": -3.0, "7]": -4.0})
    number = len(fields["tokenizer.ggml.tokens"])
    for key, value in (("tokens", f"[PAD{number}]"), ("token_type", 5), ("scores", 0.0)):
        fields[f"tokenizer.ggml.{key}"] = [*fields[f"tokenizer.ggml.{key}"], value]
    tokenizer = Tokenizer.from_str(rebuilt(fields).tokenizer_json)
    assert tokenizer.get_vocab_size() == number
    assert tokenizer.id_to_token(number) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": None}, "no field tokenizer.ggml.model"),
        ({"tokenizer.ggml.model": "t5"}, "kind 't5'; accepted are gpt2 .* and llama"),
        ({"tokenizer.ggml.pre": "novel"}, "pre-tokenizer is 'novel'.*known are.*smollm"),
        ({"tokenizer.ggml.merges": None}, "no field tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["the"]}, "merge 0 is 'the', which is no pair"),
        ({"tokenizer.ggml.merges": ["Q Z"]}, "vocabulary is no valid tokenizer"),
        ({"tokenizer.ggml.eos_token_id": 9999}, "eos_token_id = 9999, but only"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "tokens and 2 token types"),
        ({"tokenizer.chat_template": 7}, "chat_template = 7; text is accepted"),
        ({"tokenizer.ggml.model": "llama"}, "no field tokenizer.ggml.scores"),
    ],
)  # fmt: skip
def test_contradicting_fields_are_clear_errors(
    make_gguf: Any, change: dict[str, Any], message: str
) -> None:
    path, _ = make_gguf(fields=change)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(path))


def test_duplicate_tokens_are_refused() -> None:
    fields = sentence_piece_fields({"a": -1.0})
    fields["tokenizer.ggml.tokens"][-1] = "<s>"
    with pytest.raises(CheckpointError, match=r"'<s>' twice, as tokens 1 and 259"):
        rebuilt(fields)


def test_named_chat_templates(make_gguf: Any) -> None:
    unnamed = {"tokenizer.chat_template": None}
    path, _ = make_gguf(fields={**unnamed, "tokenizer.chat_template.tool_use": "T"})
    with open_checkpoint(str(path)) as checkpoint:
        assert checkpoint.tokenizer.chat_template == "T"
    several = {"tokenizer.chat_template.rag": "R", "tokenizer.chat_template.tool_use": "T"}
    path, _ = make_gguf(fields={**several, "tokenizer.chat_template": "D"})
    with open_checkpoint(str(path)) as checkpoint:
        assert checkpoint.tokenizer.chat_template == "D"
    path, _ = make_gguf(fields={**unnamed, **several})
    with pytest.raises(
        CheckpointError, match=r"chat_template\.rag, tokenizer\.chat_template\.tool"
    ):
        open_checkpoint(str(path))
    path, _ = make_gguf(fields=unnamed)
    with open_checkpoint(str(path)) as checkpoint:
        assert checkpoint.tokenizer.chat_template is None

"""The formula tokenizer: the published example, and what must hold for any text."""

from __future__ import annotations

import functools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgewise.exporter.formula_tokenizer import (
    CELL,
    FormulaTokenizerError,
    build_formula_tokenizer,
    excel_functions,
)
from edgewise.runtime.detokenizer import Detokenizer, TokenBytes

FORMULAS = [
    '=SUMIF(B1:B5, "Not available", A1:A5)',
    '=IF(ISBLANK(Total_2024), "not available", ROUND(Total_2024/12, 2))',
    "=VLOOKUP($A2, 'Größe 1'!$A$1:$D$99, 3, FALSE)",
    "=Table1[[#This Row],[Net amount]]*1.19",
]
PUBLISHED = '= sumif ( b 1 : b 5 , ␠ " not ␠ available " , ␠ a 1 : a 5 )'


@functools.cache
def trained() -> Tokenizer:
    return Tokenizer.from_str(build_formula_tokenizer(FORMULAS * 3, vocabulary_size=1200))


def tokens(text: str) -> list[str]:
    return list(trained().encode(text, add_special_tokens=False).tokens)


def lowered(text: str) -> str:
    """Write each character by itself in small letters: no other rule of a word's end."""
    return "".join(character.lower() for character in text)


def test_the_published_example() -> None:
    assert [text.replace(" ", "␠") for text in tokens(FORMULAS[0])] == PUBLISHED.split()


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=40) | st.text(alphabet="SUMIFsumif(A1:b9,.\" $_é\t\n'!", max_size=40))
def test_tokens_joined_are_the_text_in_small_letters(text: str) -> None:
    tokenizer = trained()
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    assert tokenizer.decode(ids) == lowered(text)
    detokenizer = Detokenizer(TokenBytes(tokenizer))
    assert "".join(map(detokenizer.push, ids)) + detokenizer.finish() == lowered(text)
    if text.isascii():
        assert "".join(tokenizer.id_to_token(number) for number in ids) == text.lower()
    for number in ids:
        token = tokenizer.id_to_token(number)
        alone = [c for c in token if c.isspace() or unicodedata.category(c)[0] in "PS"]
        alone += [c for c in token if unicodedata.category(c) == "Nd"]
        if alone and not token.startswith("<0x"):
            assert len(token) == 1 or token in excel_functions()


@pytest.mark.parametrize("spelling", [str.upper, str.title, str.lower])
def test_every_function_is_one_token(spelling: object) -> None:
    assert callable(spelling)
    for name in excel_functions():
        assert tokens(f"=1+{spelling(name)} (") == ["=", "1", "+", name, " ", "("], name
        if not CELL.fullmatch(name):
            assert tokens(f'"{name}"') == ['"', name, '"'], name


def test_names_within_words_and_cells_are_no_functions() -> None:
    assert tokens("=LOG10+1")[1:4][-2:] == ["1", "0"]
    assert tokens("=LOG10(1)")[1] == "log10"
    assert tokens("N1") == ["n", "1"]
    assert "sum" not in tokens("=mysum(1)")
    assert tokens("=xstdev.s(1)")[-5:] == [".", "s", "(", "1", ")"]
    assert "stdev.s" not in tokens("=stdev.sum(1)")
    assert tokens("a sum.") == ["a", " ", "sum", "."]


def test_the_vocabulary() -> None:
    text = build_formula_tokenizer(FORMULAS, vocabulary_size=1000, sentinels=10)
    tokenizer = Tokenizer.from_str(text)
    size = tokenizer.get_vocab_size()
    assert size <= 1000
    assert [tokenizer.token_to_id(token) for token in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]
    assert [tokenizer.token_to_id(f"<extra_id_{index}>") for index in range(10)] == [
        size - 1 - index for index in range(10)
    ]
    assert tokenizer.encode("=1").ids[-1] == 1
    assert text == build_formula_tokenizer(FORMULAS, vocabulary_size=1000, sentinels=10)
    full = build_formula_tokenizer(["äöü abcdefgh " * 3], vocabulary_size=982)
    assert Tokenizer.from_str(full).get_vocab_size() == 982


def test_functions_are_listed_once_and_in_order() -> None:
    names = excel_functions()
    assert list(names) == sorted(set(names))
    assert len(names) > 500
    assert {"sum", "sumif", "xlookup", "lambda", "t.inv.2t", "log10", "true"} <= set(names)


def test_a_vocabulary_without_room_is_refused() -> None:
    with pytest.raises(FormulaTokenizerError, match=r"a vocabulary of 500 tokens .*give at least"):
        build_formula_tokenizer(FORMULAS, vocabulary_size=500)

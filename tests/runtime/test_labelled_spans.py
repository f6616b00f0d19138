"""Parts of a text from labels of tokens, against words that were labelled before they were cut."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.labelled_spans import LabelledSpan, TokenSpan, labelled_spans

KNOWN = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def cut(text, words, labels):
    """Give each word, (start, end), a token a letter; only the first one has the word's label."""
    tokens, token_labels, probabilities = [], [], []
    for number, ((start, end), label) in enumerate(zip(words, labels, strict=True)):
        for place in range(start, end):
            tokens.append(TokenSpan(7, place, place + 1, number))
            token_labels.append(label if place == start else "B-PER")
            probabilities.append(0.5 + number / 100 if place == start else 0.01)
    return labelled_spans(text, tokens, token_labels, probabilities, KNOWN)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("O B-PER I-PER O B-LOC", [("PER", 1, 2), ("LOC", 4, 4)]),
        ("B-PER B-PER I-PER I-PER O", [("PER", 0, 0), ("PER", 1, 3)]),
        ("I-PER I-PER B-PER O I-LOC", [("PER", 0, 1), ("PER", 2, 2), ("LOC", 4, 4)]),
        (
            "B-PER I-LOC I-LOC B-LOC I-PER",
            [("PER", 0, 0), ("LOC", 1, 2), ("LOC", 3, 3), ("PER", 4, 4)],
        ),
        ("B-PER O I-PER O O", [("PER", 0, 0), ("PER", 2, 2)]),
        ("O O O O O", []),
    ],
)
def test_words_join_to_parts(labels, expected):
    text = "Ada met Bo in Rome."
    words = [(0, 3), (4, 7), (8, 10), (11, 13), (14, 18)]
    found = cut(text, words, labels.split())
    assert found == [
        LabelledSpan(
            text[words[first][0] : words[last][1]],
            kind,
            pytest.approx(sum(0.5 + n / 100 for n in range(first, last + 1)) / (last - first + 1)),
            words[first][0],
            words[last][1],
        )
        for kind, first, last in expected
    ]


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=8),
    kinds=st.lists(st.sampled_from(KNOWN), min_size=8, max_size=8),
)
def test_any_words_join_as_their_labels_say(lengths, kinds):
    text, words = "", []
    for length, gap in lengths:
        words.append((len(text), len(text) + length))
        text += "x" * length + " " * gap
    labels = kinds[: len(words)]
    groups = []
    for index, label in enumerate(labels):
        joins = label[0] == "I" and index > 0 and labels[index - 1][2:] == label[2:]
        if label != "O" and joins:
            groups[-1].append(index)
        elif label != "O":
            groups.append([index])
    found = cut(text, words, labels)
    assert [(one.start, one.end, one.label) for one in found] == [
        (words[group[0]][0], words[group[-1]][1], labels[group[0]][2:]) for group in groups
    ]
    for before, after in itertools.pairwise(found):
        assert before.end < after.start


def test_labels_without_marks_label_each_word():
    tokens = [TokenSpan(1, 0, 2, 0), TokenSpan(2, 2, 4, 0), TokenSpan(3, 5, 8, 1)]
    found = labelled_spans(
        "cats eat", tokens, ["NOUN", "X", "NOUN"], [0.9, 0.1, 0.7], ["NOUN", "X", "O"]
    )
    assert found == [
        LabelledSpan("cats", "NOUN", 0.9, 0, 4),
        LabelledSpan("eat", "NOUN", 0.7, 5, 8),
    ]


def test_label_sets_that_mark_ends_and_single_words():
    known = ("O", "B-A", "I-A", "E-A", "S-A", "L-A", "U-A")
    text = "a b c d e f g"
    tokens = [TokenSpan(1, place, place + 1, place) for place in range(0, 13, 2)]
    labels = ["B-A", "E-A", "S-A", "B-A", "L-A", "U-A", "O"]
    found = labelled_spans(text, tokens, labels, [1.0] * 7, known)
    assert [one.text for one in found] == ["a b", "c", "d e", "f"]
    assert {one.label for one in found} == {"A"}


def test_words_that_only_spaces_tell_apart():
    """A tokenizer that knows no words: tokens with a space before them, and one that is a space."""
    text = " New York  is"
    tokens = [
        TokenSpan(1, 0, 3, None),
        TokenSpan(2, 3, 4, None),
        TokenSpan(3, 4, 9, None),
        TokenSpan(4, 9, 10, None),
        TokenSpan(5, 10, 13, None),
    ]
    labels = ["B-LOC", "O", "I-LOC", "B-PER", "O"]
    found = labelled_spans(text, tokens, labels, [0.5, 1, 0.75, 1, 1], KNOWN)
    assert found == [LabelledSpan("New York", "LOC", 0.625, 1, 9)]


def test_letters_of_several_tokens_are_one_word():
    tokens = [
        TokenSpan(1, 0, 1, 0),
        TokenSpan(2, 0, 1, 0),
        TokenSpan(3, 1, 2, 0),
        TokenSpan(4, 2, 2, 1),
    ]
    found = labelled_spans("🙂!", tokens, ["B-PER", "O", "O", "O"], [0.5, 1, 1, 1], KNOWN)
    assert found == [LabelledSpan("🙂!", "PER", 0.5, 0, 2)]

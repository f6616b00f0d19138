"""From a label for each token to labelled parts of a text, such as the names in it.

Rules
- A *word* begins at a token that the tokenizer says begins one, and after whitespace. It has the
  label and the probability of its first token, as models of this kind are trained: the labels of
  the tokens behind it mean nothing.
- Labels such as ``B-PER`` and ``I-PER`` tell where a part begins: a word continues the one before
  it if its label begins with I-, E- or L-, and both are of one kind. Anything else begins a part,
  so that a part may begin with I-, as older label sets have it. Where no label of the model begins
  with B- or I-, every word is a part.
- The label ``O`` marks what is no part. A part's probability is the mean of its words'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

OUTSIDE = "O"
_MARKS = ("B-", "I-", "E-", "L-", "S-", "U-")  # begin, inside, end or last, single or unit
_CONTINUING = ("I-", "E-", "L-")


class TokenSpan(NamedTuple):
    """Where a token stands in a text."""

    token_id: int
    start: int  # characters of the text
    end: int  # exclusive
    word: int | None  # counted by the tokenizer; None: it knows no words


@dataclass(frozen=True)
class LabelledSpan:
    """A part of a text with its label."""

    text: str
    label: str  # without a mark such as B-
    probability: float
    start: int  # characters of the text
    end: int  # exclusive


class _Word(NamedTuple):
    start: int
    end: int
    label: str
    probability: float


def labelled_spans(
    text: str,
    tokens: Sequence[TokenSpan],
    labels: Sequence[str],
    probabilities: Sequence[float],
    known: Sequence[str],
) -> list[LabelledSpan]:
    """Group tokens to words and words to parts; see the module's docstring.

    Args:
        text: The text.
        tokens: Its tokens, in order.
        labels: Each token's most probable label.
        probabilities: Those of ``labels``.
        known: All labels of the model.
    """
    has_marks = any(label.startswith(("B-", "I-")) for label in known)
    parts: list[list[_Word]] = []
    before: _Word | None = None
    for word in _words(text, tokens, labels, probabilities):
        kind = _kind(word.label, has_marks=has_marks)
        if kind != OUTSIDE:
            continues = (
                has_marks
                and before is not None
                and word.label.startswith(_CONTINUING)
                and _kind(before.label, has_marks=has_marks) == kind
            )
            if continues:
                parts[-1].append(word)
            else:
                parts.append([word])
        before = word
    return [_span(text, part, has_marks=has_marks) for part in parts]


def _words(
    text: str, tokens: Sequence[TokenSpan], labels: Sequence[str], probabilities: Sequence[float]
) -> list[_Word]:
    words: list[_Word] = []
    number: int | None = None
    for token, label, probability in zip(tokens, labels, probabilities, strict=True):
        covered = text[token.start : token.end]
        if not covered.strip():
            continue  # what stands for a space, or for nothing, is part of no word
        start = token.start + len(covered) - len(covered.lstrip())
        end = token.start + len(covered.rstrip())
        if words and token.word == number and not _has_space(text, words[-1].end, start):
            words[-1] = words[-1]._replace(end=max(end, words[-1].end))
        else:
            words.append(_Word(start, end, label, probability))
        number = token.word
    return words


def _has_space(text: str, start: int, end: int) -> bool:
    return any(character.isspace() for character in text[start:end])


def _kind(label: str, *, has_marks: bool) -> str:
    return label[2:] if has_marks and label.startswith(_MARKS) else label


def _span(text: str, words: Sequence[_Word], *, has_marks: bool) -> LabelledSpan:
    start, end = words[0].start, words[-1].end
    mean = sum(word.probability for word in words) / len(words)
    return LabelledSpan(
        text[start:end], _kind(words[0].label, has_marks=has_marks), mean, start, end
    )

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.dry import LARGEST_PENALTY, RepeatedSequences
from edgewise.runtime.options import DRY_BREAKERS, SamplingSettings

TEXTS = [b"a", b"b", b"\n", b"x:y", b"#", b"##", b"", b"\xe2\x80", b"\xa6"]


def sequences(prompt=(), bytes_of=None, **values):
    values = {"multiplier": 1.0, "base": 2.0, **values}
    chosen = SamplingSettings(**{f"dry_{name}": value for name, value in values.items()})
    return RepeatedSequences(chosen, prompt, bytes_of)


def found(one):
    ids, penalties = one.penalties()
    return dict(zip(ids.tolist(), penalties.tolist(), strict=True))


def reference(ids, texts, breakers, *, multiplier, base, allowed_length):
    """The definition, place by place, with the breakers searched for in the text."""
    text = b"".join(texts[token] for token in ids)
    ends = np.cumsum([0, *(len(texts[token]) for token in ids)])
    since = len(ids)
    for index in range(len(ids)):
        for breaker in breakers:
            for start in range(len(text) - len(breaker) + 1):
                end = start + len(breaker)
                if text[start:end] == breaker and ends[index] < end <= ends[index + 1]:
                    since = len(ids) - 1 - index
    longest = {}
    for place in range(1, len(ids)):
        length = 0
        while length < min(place, since) and ids[place - 1 - length] == ids[-1 - length]:
            length += 1
        if length >= allowed_length and not any(one in texts[ids[place]] for one in breakers):
            longest[ids[place]] = max(length, longest.get(ids[place], 0))
    return {
        token: multiplier * base ** (length - allowed_length) for token, length in longest.items()
    }


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, len(TEXTS) - 1), max_size=24),
    st.lists(st.integers(0, len(TEXTS) - 1), max_size=24),
    st.lists(st.sampled_from(["\n", ":", "###", "ab", "…"]), max_size=3, unique=True),
    st.sampled_from([0.8, 2.0]),
    st.sampled_from([1.0, 1.75]),
    st.integers(1, 4),
)
def test_against_the_definition(prompt, answer, breakers, multiplier, base, allowed_length):
    values = {"multiplier": multiplier, "base": base, "allowed_length": allowed_length}
    one = sequences(prompt, TEXTS.__getitem__, breakers=tuple(breakers), **values)
    for count in range(len(answer) + 1):
        ids = [*prompt, *answer[:count]]
        encoded = [text.encode() for text in breakers]
        assert found(one) == pytest.approx(reference(ids, TEXTS, encoded, **values))
        if count < len(answer):
            one.note(answer[count])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1), max_size=400), st.integers(0, 400))
def test_it_does_not_matter_where_the_prompt_ends(ids, cut):
    whole = sequences(ids, breakers=())
    grown = sequences(ids[:cut], breakers=())
    for token in ids[cut:]:
        grown.note(token)
    assert found(grown) == found(whole)


def test_the_penalty_grows_with_the_sequence():
    assert found(sequences([1, 2, 3, 4, 9, 1])) == {}
    assert found(sequences([1, 2, 3, 4, 9, 1, 2])) == {3: 1.0}
    assert found(sequences([1, 2, 3, 4, 9, 1, 2, 3])) == {4: 2.0}
    assert found(sequences([1, 2, 3, 4, 9, 1, 2, 3], allowed_length=4)) == {}


def test_the_longest_of_several_places_counts():
    assert found(sequences([5, 1, 2, 7, 1, 2, 7, 5, 1, 2])) == {7: 2.0}
    assert found(sequences([5, 1, 2, 7, 1, 2, 8, 5, 1, 2])) == {7: 2.0, 8: 1.0}


def test_the_default_breakers_end_a_sequence():
    texts = [b"Name", b":", b" Bob", b'"', b" is", b"*", b"\n", b"\n\n"]
    for breaker in (1, 3, 5, 6, 7):
        ids = [0, 2, 4, breaker, 0, 2, 4, breaker]
        assert found(sequences(ids, texts.__getitem__, breakers=DRY_BREAKERS)) == {}
        # What comes before the breaker is a repetition, but the breaker itself is never penalized.
        assert found(sequences(ids[:-1], texts.__getitem__, breakers=DRY_BREAKERS)) == {}
        assert found(sequences(ids[:-1], texts.__getitem__, breakers=())) == {breaker: 2.0}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("base", [1.0, 1.000001, 1.75, 100.0])
def test_a_long_repetition_stays_a_number(base):
    one = sequences([7] * 3000, multiplier=100.0, base=base)
    (penalty,) = found(one).values()
    assert 100.0 <= penalty <= LARGEST_PENALTY
    assert np.isfinite(np.float32(3e38) - np.float32(penalty))


@pytest.mark.parametrize("prompt", [[], [1]])
def test_too_short_to_repeat(prompt):
    one = sequences(prompt, allowed_length=1)
    assert found(one) == {}
    one.note(1)
    assert found(one) == ({1: 1.0} if prompt else {})


STORED = json.loads((Path(__file__).parents[1] / "data" / "dry.json").read_text())


@pytest.mark.parametrize("number", range(len(STORED["cases"])))
def test_llama_cpp_takes_the_same(number):
    """Stored by tests/oracle/write_dry.py; its figures are float32."""
    case = STORED["cases"][number]
    multiplier, base, allowed_length = case["settings"]
    one = sequences(
        case["ids"],
        lambda token: bytes.fromhex(STORED["bytes"][str(token)]),
        breakers=tuple(case["breakers"]),
        multiplier=multiplier,
        base=base,
        allowed_length=allowed_length,
    )
    expected = {int(token): penalty for token, penalty in case["penalties"].items()}
    assert found(one) == pytest.approx(expected, rel=1e-5)

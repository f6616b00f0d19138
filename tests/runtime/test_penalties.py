import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.option_checks import OptionsError
from edgewise.runtime.options import SamplingSettings
from edgewise.runtime.penalties import Penalties, TokenCounts, penalize_in_place


def penalties_of(values, prompt=(), vocabulary=None, bytes_of=None):
    return Penalties(
        SamplingSettings(**values), prompt, sampled_vocabulary=vocabulary, bytes_of=bytes_of
    )


def test_repetition_divides_positive_and_multiplies_negative_once():
    logits = np.array([2.0, -2.0, 0.0, 4.0], np.float32)
    penalize_in_place(logits, np.array([0, 1, 2]), 2.0)
    assert logits.tolist() == [1.0, -4.0, 0.0, 4.0]


def test_frequency_counts_and_presence_does_not():
    """OpenAI's definition: mu - c * frequency - (c > 0) * presence, over the answer alone."""
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    penalties = penalties_of({"frequency_penalty": 0.25, "presence_penalty": 0.5}, [0, 1, 2, 2])
    assert penalties.apply(logits).tolist() == [1.0, 2.0, 3.0]
    for token in (2, 2, 1):
        penalties.note(token)
    assert penalties.apply(logits).tolist() == [1.0, 2.0 - 0.25 - 0.5, 3.0 - 0.5 - 0.5]


def test_negative_penalties_encourage():
    penalties = penalties_of({"frequency_penalty": -1.0, "presence_penalty": -2.0})
    penalties.note(1)
    assert penalties.apply(np.zeros(3, np.float32)).tolist() == [0.0, 3.0, 0.0]


def test_dry_takes_from_what_would_continue_a_repetition():
    penalties = penalties_of({"dry_multiplier": 0.5, "dry_base": 2.0}, [1, 2, 3, 0, 1, 2])
    assert penalties.apply(np.zeros(4, np.float32)).tolist() == [0.0, 0.0, 0.0, -0.5]
    penalties.note(3)
    assert penalties.apply(np.zeros(4, np.float32)).tolist() == [-1.0, 0.0, 0.0, 0.0]


def test_only_what_is_asked_for_changes_something():
    assert penalties_of({"temperature": 1.0, "typical_p": 0.5}, [1, 2]).change_nothing
    for values in (
        {"logit_bias": {1: 1.0}},
        {"repetition_penalty": 1.1},
        {"frequency_penalty": 0.1},
        {"presence_penalty": -0.1},
        {"dry_multiplier": 0.8},
    ):
        assert not penalties_of(values).change_nothing


def test_the_impossible_stays_impossible():
    logits = np.array([-np.inf, 0.0], np.float32)
    penalties = penalties_of(
        {"logit_bias": {0: 100.0}, "repetition_penalty": 0.5, "presence_penalty": -2.0}, [0]
    )
    penalties.note(0)
    assert penalties.apply(logits)[0] == -np.inf


def test_a_bias_outside_the_vocabulary_is_refused_by_name():
    penalties = penalties_of({"logit_bias": {1: 1.0, 8: 1.0}})
    with pytest.raises(OptionsError, match=r"logit_bias has the token 8; accepted .*: 0 to 7"):
        penalties.apply(np.zeros(8, np.float32))
    assert penalties_of({"logit_bias": {8: 1.0}}).apply(np.zeros(9, np.float32))[8] == 1.0


def test_ids_of_images_are_not_penalized():
    values = {"repetition_penalty": 2.0, "dry_multiplier": 1.0, "dry_allowed_length": 1}
    penalties = penalties_of(values, [100, 1, 100], vocabulary=2)
    assert penalties.apply(np.ones(2, np.float32)).tolist() == [1.0, -0.5]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-30, 30), min_size=6, max_size=6),
    st.lists(st.integers(0, 5), max_size=12),
    st.lists(st.integers(0, 5), max_size=200),
    st.dictionaries(st.integers(0, 5), st.integers(-100, 100), max_size=6),
    st.sampled_from([1.0, 0.5, 1.3]),
    st.sampled_from([0.0, 0.25, -1.5]),
    st.sampled_from([0.0, 0.5, -2.0]),
)
def test_against_one_token_at_a_time(raw, prompt, answer, bias, repetition, frequency, presence):
    logits = np.array(raw, np.float32)
    penalties = penalties_of(
        {
            "logit_bias": bias,
            "repetition_penalty": repetition,
            "frequency_penalty": frequency,
            "presence_penalty": presence,
        },
        prompt,
    )
    for token in answer:
        penalties.note(token)
    expected = []
    for token, value in enumerate(raw):
        changed = value + bias.get(token, 0.0)
        if token in prompt or token in answer:
            changed = changed * repetition if changed < 0 else changed / repetition
        expected.append(changed - answer.count(token) * frequency - (token in answer) * presence)
    for _ in range(2):  # the memory is used again, the result is the same
        assert penalties.apply(logits).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-5)
    assert logits.tolist() == raw


def test_counts_grow():
    counts = TokenCounts()
    for token in [*range(300), *range(0, 300, 3)]:
        counts.add(token)
    assert counts.ids.tolist() == list(range(300))
    assert counts.counts.tolist() == [2 if token % 3 == 0 else 1 for token in range(300)]

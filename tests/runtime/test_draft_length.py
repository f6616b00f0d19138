import pytest

from edgewise.runtime.draft_length import LENGTHS, PAUSE, DraftLength, StepCosts


def costs(per_token):
    """Steps that cost 1 second and so much more for each further token."""
    known = StepCosts()
    for tokens in (1, *(length + 1 for length in LENGTHS)):
        known.note(tokens, 1.0 + per_token * (tokens - 1))
    return known


def test_the_first_step_has_no_draft_and_each_length_is_tried_once():
    known = StepCosts()
    length = DraftLength(known)
    assert length.next() == 0
    known.note(1, 1.0)
    for expected in LENGTHS:
        assert length.next() == expected
        known.note(expected + 1, 1.1)
    assert length.next() in LENGTHS


def test_drafts_that_agree_grow_and_those_that_do_not_shrink():
    length = DraftLength(costs(0.1))
    for _ in range(20):
        drafted = length.next()
        length.note(drafted, drafted)
    assert length.next() == max(LENGTHS)
    for _ in range(5):
        length.note(8, 0)
    assert length.next() == min(LENGTHS)


def test_where_no_draft_pays_there_is_none_for_a_while():
    length = DraftLength(costs(0.9))  # a further token costs as much as a step of its own
    for _ in range(10):
        length.note(2, 0)
    assert length.next() == LENGTHS[0]  # one draft shows whether that is so
    assert [length.next() for _ in range(PAUSE)] == [0] * PAUSE
    length.note(LENGTHS[0], 0)
    assert length.next() == LENGTHS[0]


@pytest.mark.parametrize("agreement", [0.0, 0.3, 0.8, 1.0])
def test_the_expected_tokens_are_those_of_the_closed_form(agreement):
    length = DraftLength(StepCosts())
    length._agreement = agreement
    brute_force = sum(agreement**agreed for agreed in range(5))
    assert length._expected(4) == pytest.approx(brute_force)

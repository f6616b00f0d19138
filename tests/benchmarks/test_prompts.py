"""Prompts of the comparison: repeatable, in the vocabulary, sharing what they are meant to."""

import itertools

from prompts import sharing_prompts, token_ids


def test_ids_are_repeatable_and_leave_out_the_ends_of_the_vocabulary():
    ids = token_ids(5000, 64, "a")
    assert set(ids) == set(range(10, 54))
    assert ids == token_ids(5000, 64, "a")
    assert ids != token_ids(5000, 64, "b")
    assert token_ids(100, 64, "a") == ids[:100]


def test_prompts_share_the_beginning_and_nothing_more():
    prompts = sharing_prompts(8, 48, 16, 49152, "one")
    assert [len(prompt) for prompt in prompts] == [64] * 8
    for first, second in itertools.combinations(prompts, 2):
        assert first[:48] == second[:48]
        assert first[48] != second[48]
    others = sharing_prompts(8, 48, 16, 49152, "two")
    assert others[0][0] != prompts[0][0]

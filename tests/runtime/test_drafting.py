import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.drafting import LONGEST, SHORTEST, ModelDrafter, PromptLookup

VOCABULARY = 40


def brute_force(tokens, most):
    """What followed the longest run of last tokens where it stood last before."""
    for size in range(LONGEST, SHORTEST - 1, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if list(tokens[end - size : end]) == list(tokens[-size:]):
                return list(tokens[end : end + most])
    return []


@settings(max_examples=300, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 3), max_size=60),
    most=st.integers(1, 8),
    sizes=st.lists(st.integers(1, 20), max_size=8),
)
def test_lookup_finds_what_a_search_of_the_whole_text_finds(tokens, most, sizes):
    lookup = PromptLookup()
    for end in itertools.accumulate(sizes):
        assert lookup.draft(tokens[:end], most) == brute_force(tokens[:end], most)


def test_a_model_drafts_its_most_likely_tokens():
    backend = FakeBackend(vocabulary_size=VOCABULARY, capacity=32)
    drafter = ModelDrafter(backend)
    history = [1, 2, 3]
    for most in (1, 4, 2):
        expected = list(history)
        for _ in range(most):
            expected.append(int(backend.logits_after(expected).argmax()))
        assert drafter.draft(history, most) == expected[len(history) :]
        history += [expected[len(history)], 7]  # agrees with one of them
    # Another answer, which shares only a beginning.
    other = [1, 2, 9]
    assert drafter.draft(other, 1) == [int(backend.logits_after(other).argmax())]


def test_a_model_computes_only_what_is_new():
    backend = FakeBackend(vocabulary_size=VOCABULARY, capacity=64)
    drafter = ModelDrafter(backend)
    drafter.draft(range(20), 1)
    steps = backend.steps
    drafter.draft([*range(20), 5], 3)
    assert backend.steps - steps == 3


def test_a_model_drafts_nothing_where_its_context_ends():
    drafter = ModelDrafter(FakeBackend(vocabulary_size=VOCABULARY, capacity=8))
    assert len(drafter.draft(range(6), 9)) == 3
    assert len(drafter.draft(range(8), 9)) == 1
    assert drafter.draft(range(9), 9) == []


def test_a_closed_model_gives_its_memory_back():
    backend = FakeBackend(vocabulary_size=VOCABULARY)
    ModelDrafter(backend).close()
    with pytest.raises(ValueError, match="closed"):
        backend.step(0, np.array([[1]]), np.zeros(1, np.int32))

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.prefix_store import PrefixError, PrefixStore

TOKEN_BYTES = 2 * 4  # of `cache_of`: a key and a value of one head of one feature


def cache_of(tokens):
    """Keys and values that tell which tokens they are of."""
    row = np.array(tokens, np.float32).reshape(1, -1, 1)
    return np.stack([row, -row])


def put(store, tokens, **more):
    return store.put(tuple(tokens), lambda: cache_of(tokens), **more)


def test_a_beginning_is_read_up_to_where_a_prompt_leaves_it():
    store = PrefixStore(1000)
    assert put(store, [1, 2, 3, 4])
    assert store.longest([1, 2, 3, 9]) == 3
    assert store.longest([9]) == 0
    assert np.array_equal(store.read([1, 2, 3]), cache_of([1, 2, 3]))
    assert store.read([1, 2, 9]) is None
    assert store.read([]) is None


def test_without_a_budget_only_what_is_pinned_or_saved_is_kept():
    store = PrefixStore()
    assert not put(store, [1, 2])
    assert put(store, [1, 2], pinned=True)
    store.add_saved([3, 4], lambda: cache_of([3, 4]))
    assert store.longest([1, 2, 3]) == 2
    assert np.array_equal(store.read([3, 4]), cache_of([3, 4]))
    assert store.bytes_taken == 2 * TOKEN_BYTES


def test_what_is_known_already_is_not_computed_again_and_what_grows_takes_its_place():
    store = PrefixStore(1000)
    put(store, [1, 2, 3])
    assert not store.put((1, 2), lambda: pytest.fail("it is known"))
    assert put(store, [1, 2, 3, 4])
    assert len(store) == 1
    assert store.bytes_taken == 4 * TOKEN_BYTES


def test_the_one_that_was_unused_longest_makes_room():
    store = PrefixStore(6 * TOKEN_BYTES)
    for tokens in ([1, 1], [2, 2], [3, 3]):
        put(store, tokens)
    store.read([1, 1])
    put(store, [4, 4])
    assert [store.longest([first, first]) for first in (1, 2, 3, 4)] == [2, 0, 2, 2]


def test_a_pinned_one_stays_and_what_can_not_fit_is_left_out():
    store = PrefixStore(4 * TOKEN_BYTES)
    put(store, [1, 1, 1], pinned=True)
    assert not put(store, [2, 2])
    assert put(store, [3])
    assert put(store, [4])
    assert [store.longest([first]) for first in (1, 2, 3, 4)] == [1, 0, 0, 1]


def test_a_file_that_can_not_be_read_is_forgotten(caplog):
    def gone():
        raise PrefixError("gone.npz can not be read")

    store = PrefixStore(1000)
    put(store, [1, 2])
    store.add_saved([1, 2, 3], gone)
    assert store.longest([1, 2, 3]) == 3
    assert store.read([1, 2, 3]) is None
    assert "gone.npz" in caplog.text
    assert np.array_equal(store.read([1, 2]), cache_of([1, 2]))


@settings(max_examples=100, deadline=None)
@given(
    budget=st.integers(0, 12),
    actions=st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, 2), min_size=1, max_size=5)), max_size=30
    ),
)
def test_the_budget_is_never_passed_and_what_is_read_is_right(budget, actions):
    store = PrefixStore(budget * TOKEN_BYTES)
    for is_put, tokens in actions:
        if is_put:
            put(store, tokens)
        else:
            known = store.longest(tokens)
            if known:
                assert np.array_equal(store.read(tokens[:known]), cache_of(tokens[:known]))
        assert store.bytes_taken <= budget * TOKEN_BYTES

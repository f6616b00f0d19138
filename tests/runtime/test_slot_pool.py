"""The pool against what it promises: no slot twice, no byte over budget, no token of another."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.slot_pool import LEAST_COPIED, ContextError, Lease, SlotPool

PREFIX = list(range(100, 100 + LEAST_COPIED))  # long enough to be copied


def used(pool, prompt, answer=()):
    """Lease, write the prompt and the answer, and give the slot back."""
    lease = pool.lease(prompt, max(1, len(answer)))
    pool.append(lease.slot, [*prompt[lease.reused :], *answer])
    pool.give_back(lease.slot)
    return lease


def test_an_empty_pool_gives_the_lowest_slot():
    pool = SlotPool(2, 10)
    assert pool.lease([1, 2, 3], 4) == Lease(0, 0)
    assert pool.lease([1, 2, 3], 4) == Lease(1, 0)  # what the first will hold is not there yet
    assert pool.lease([1], 1) is None
    assert pool.free_slots == 0
    assert pool.append(0, [1, 2, 3]) == 0
    assert pool.append(0, [8]) == 3
    assert (pool.length(0), pool.room(0)) == (4, 3)


def test_what_was_given_back_is_found_again_in_place():
    pool = SlotPool(3, 64)
    used(pool, [1, 2, 3, 4], [5, 6])
    assert pool.lease([1, 2, 3, 4, 5, 9], 4) == Lease(0, 5)


def test_the_last_token_of_a_prompt_is_always_computed():
    pool = SlotPool(1, 64)
    used(pool, [1, 2, 3, 4])
    assert pool.lease([1, 2, 3, 4], 1) == Lease(0, 3)


def test_a_long_continuation_stays_where_it_is_and_what_is_shared_is_copied():
    pool = SlotPool(2, 100)
    used(pool, [*PREFIX, *range(50)])
    assert pool.lease([*PREFIX, 1, 2], 4) == Lease(1, LEAST_COPIED, copied_from=0)
    pool.give_back(1)
    assert pool.lease([*PREFIX, *range(50), 7], 4) == Lease(0, LEAST_COPIED + 50)


def test_a_short_beginning_is_not_worth_a_copy():
    pool = SlotPool(2, 100)
    used(pool, [*PREFIX[:-1], *range(50)])
    assert pool.lease([*PREFIX[:-1], 1, 2], 4) == Lease(1, 0)


def test_a_running_prompt_can_be_copied_as_soon_as_it_is_shared():
    pool = SlotPool(3, 100)
    first = pool.lease([*PREFIX, 1], 4)
    pool.append(first.slot, [*PREFIX, 1])
    assert pool.lease([*PREFIX, 2], 4) == Lease(1, 0)
    pool.share(first.slot)
    assert pool.lease([*PREFIX, 3], 4) == Lease(2, LEAST_COPIED, copied_from=0)


def test_the_slot_that_was_unused_longest_is_lost_first():
    evicted = []
    pool = SlotPool(2, 10, on_evict=lambda slot, tokens: evicted.append((slot, tokens)))
    used(pool, [1, 2, 3])
    used(pool, [4, 5, 6])
    used(pool, [1, 2, 3])  # again
    assert pool.lease([7, 8], 1) == Lease(1, 0)
    assert evicted == [(1, (4, 5, 6))]


def test_a_slot_whose_step_failed_is_not_found_again():
    pool = SlotPool(1, 10)
    lease = pool.lease([1, 2, 3], 1)
    pool.append(lease.slot, [1, 2, 3])
    pool.give_back(lease.slot, intact=False)
    assert pool.lease([1, 2, 3], 1) == Lease(0, 0)


def test_without_reuse_nothing_is_found_again():
    pool = SlotPool(1, 10, reuse=False)
    used(pool, [1, 2, 3])
    assert pool.lease([1, 2, 3], 1) == Lease(0, 0)


def test_trimming_takes_tokens_back():
    pool = SlotPool(2, 40)
    lease = pool.lease(PREFIX, 9)
    pool.append(lease.slot, [*PREFIX, 7, 8])
    pool.share(lease.slot)
    pool.trim(lease.slot, LEAST_COPIED)
    assert pool.append(lease.slot, [9]) == LEAST_COPIED
    other = pool.lease([*PREFIX, 7, 8, 1], 1)
    assert other.reused == LEAST_COPIED
    with pytest.raises(ValueError, match="holds 17 tokens, not 18"):
        pool.trim(lease.slot, 18)


def test_what_can_never_fit_is_refused_with_the_numbers():
    pool = SlotPool(2, 10, bytes_of=lambda tokens: 100 * tokens, budget_bytes=800)
    pool.check_prompt(8)
    with pytest.raises(ContextError, match="is empty"):
        pool.check_prompt(0)
    with pytest.raises(ContextError, match="has 11 tokens, the context holds 10"):
        pool.check_prompt(11)
    with pytest.raises(ContextError, match="take 900 bytes; the cache may take 800"):
        pool.check_prompt(9)


def test_an_answer_is_cut_to_what_the_budget_holds():
    pool = SlotPool(2, 10, bytes_of=lambda tokens: 100 * tokens, budget_bytes=850)
    lease = pool.lease([1, 2], 100)
    pool.append(lease.slot, [1, 2])
    assert pool.room(lease.slot) == 6


def test_a_request_waits_for_memory_that_others_hold_and_takes_what_nobody_holds():
    released = []
    pool = SlotPool(3, 10, bytes_of=lambda n: n, budget_bytes=15, on_release=released.append)
    used(pool, [1, 2, 3], [4])  # keeps 4 bytes
    first = pool.lease([5, 6, 7], 5)  # 8 more
    assert first == Lease(1, 0)
    assert pool.lease([8, 9, 9], 8) is None  # 11 more, of which 7 are free without slot 0
    assert released == [0]  # what nobody holds is given back first
    pool.give_back(1)
    assert pool.lease([8, 9, 9], 8) is not None


def test_a_shared_beginning_is_used_up_where_both_do_not_fit():
    pool = SlotPool(2, 100, bytes_of=lambda n: n, budget_bytes=80)
    used(pool, [*PREFIX, *range(50)])  # 66 bytes
    assert pool.lease([*PREFIX, 1, 2], 4) == Lease(0, LEAST_COPIED)


def test_a_slot_that_is_not_held_is_a_fault_of_the_program():
    pool = SlotPool(1, 10)
    for call in (pool.length, pool.give_back, pool.share, pool.room):
        with pytest.raises(ValueError, match="slot 0 is not held"):
            call(0)
    with pytest.raises(ValueError, match="needs slots and capacity"):
        SlotPool(0, 1)


def test_a_row_that_is_passed_over_is_written_behind_what_is_valid():
    pool = SlotPool(3, 4, bytes_of=lambda n: n, budget_bytes=12)
    assert pool.scratch(0) is None  # no memory taken, and none shall be
    used(pool, [1, 2])
    assert pool.scratch(0) == 2
    assert pool.bytes_taken == 3  # the place for it counts from now on
    used(pool, [1, 2, 3], [4])
    assert pool.scratch(0) is None  # full
    lease = pool.lease([7, 7], 1)
    assert pool.scratch(lease.slot) == 0


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_history_keeps_the_promises(data):
    """A model of the cache beside the pool: each slot's tokens as a back end would hold them."""
    slots, capacity = data.draw(st.integers(1, 4)), 24
    budget = data.draw(st.integers(24, 24 * slots))
    memory = [[] for _ in range(slots)]

    def evict(slot, tokens):
        assert tuple(memory[slot][: len(tokens)]) == tokens

    pool = SlotPool(
        slots,
        capacity,
        bytes_of=lambda tokens: tokens,
        budget_bytes=budget,
        on_evict=evict,
        on_release=lambda slot: memory[slot].clear(),
    )
    held = {}
    prompts = st.lists(st.integers(0, 1), min_size=1, max_size=22)
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["lease", "lease", "grow", "trim", "back"]))
        if action == "lease":
            prompt = data.draw(prompts)
            lease = pool.lease(prompt, data.draw(st.integers(1, 8)))
            if lease is None:
                assert held, "nothing is held and still nothing is given"
                continue
            assert lease.slot not in held
            if lease.copied_from is not None:
                memory[lease.slot][:] = memory[lease.copied_from][: lease.reused]
            assert memory[lease.slot][: lease.reused] == prompt[: lease.reused]
            assert lease.reused < len(prompt)
            past = pool.append(lease.slot, prompt[lease.reused :])
            memory[lease.slot][past:] = prompt[lease.reused :]
            held[lease.slot] = list(prompt)
            if data.draw(st.booleans()):
                pool.share(lease.slot)
        elif held:
            slot = data.draw(st.sampled_from(sorted(held)))
            if action == "grow" and pool.room(slot) > 0:
                past = pool.append(slot, [1])
                memory[slot][past:] = [1]
                held[slot].append(1)
            elif action == "trim":
                length = data.draw(st.integers(1, len(held[slot])))
                pool.trim(slot, length)
                del held[slot][length:]
            elif action == "back":
                pool.give_back(slot)
                del held[slot]
        for slot, tokens in held.items():
            assert memory[slot][: pool.length(slot)] == tokens
        assert pool.bytes_taken <= pool.budget_bytes
        assert sum(len(tokens) for tokens in memory) <= budget

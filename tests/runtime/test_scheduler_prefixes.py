"""What the scheduler takes from beginnings that outlive their slot."""

import numpy as np
import pytest
from scheduling import TEMPLATE, alone, decoding, ids, in_turn, make

from edgewise.runtime.prefix_store import PrefixStore
from edgewise.runtime.scheduler import Scheduler
from edgewise.runtime.slot_pool import SlotPool


def with_store(backend, budget=1000, slots=1):
    """A scheduler whose slots give what they lose to a store, as sessions have it."""
    store = PrefixStore(budget)
    pool = SlotPool(
        slots,
        64,
        bytes_of=backend.slot_bytes,
        on_evict=lambda slot, ids: store.put(ids, lambda: backend.read_cache(slot, len(ids))),
        on_release=backend.release,
    )
    return store, Scheduler(backend, pool, store=store)


def test_what_a_slot_loses_is_not_computed_again():
    backend, _ = make(slots=1)
    _, scheduler = with_store(backend)
    first, second = [*TEMPLATE, 1], [9, *TEMPLATE, 2]
    for prompt, reused in ((first, 0), (second, 0), (first, len(TEMPLATE)), (second, 21)):
        pieces = list(scheduler.run(decoding(prompt)))
        assert ids(pieces) == alone(prompt)
        assert pieces[-1].statistics.reused_tokens == reused


def test_a_beginning_from_elsewhere_is_written_into_the_slot():
    backend, _ = make(slots=2)
    store, scheduler = with_store(backend, budget=0, slots=2)
    cache = np.tile(np.array(TEMPLATE, np.float32)[:, None], (2, 1, 1, 1))
    store.add_saved(TEMPLATE, lambda: cache)
    pieces = in_turn(scheduler, [decoding([*TEMPLATE, last]) for last in (1, 2)])
    assert [ids(one) for one in pieces] == [alone([*TEMPLATE, 1]), alone([*TEMPLATE, 2])]
    assert [one[-1].statistics.reused_tokens for one in pieces] == [len(TEMPLATE)] * 2
    # The last token of a prompt is computed in any case.
    pieces = list(scheduler.run(decoding(TEMPLATE)))
    assert ids(pieces) == alone(TEMPLATE)


def test_a_beginning_that_can_not_be_written_ends_its_own_request_alone():
    backend, _ = make(slots=2)
    store, scheduler = with_store(backend, budget=0, slots=2)
    store.add_saved(TEMPLATE, lambda: np.zeros((1, 1, 20, 1), np.float32))

    def broken(slot, cache):
        raise RuntimeError("no")

    backend.write_cache = broken
    other = scheduler.run(decoding([1, 2, 3]))
    begun = ids([next(other)])
    with pytest.raises(RuntimeError, match="no"):
        list(scheduler.run(decoding([*TEMPLATE, 1])))
    assert begun + ids(other) == alone([1, 2, 3])
    assert scheduler.pool.free_slots == 2

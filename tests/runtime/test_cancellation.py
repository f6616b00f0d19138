"""Taking requests back from another thread, wherever they are."""

import threading

import pytest
from scheduling import alone, decoding, ids, make

from edgewise.runtime.admission import Standing
from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.backends.fake_bundle import write_fake_sequence_bundle
from edgewise.runtime.cancellation import Cancellation, CancelledError
from edgewise.runtime.loading import load
from edgewise.runtime.scheduler import Scheduler
from edgewise.runtime.slot_pool import SlotPool

PATIENCE = 20.0  # seconds that anything may take before a test gives up


def test_listeners_are_told_once_and_only_while_they_listen():
    cancellation, told = Cancellation(), []
    with cancellation.heard(lambda: told.append("gone")):
        pass
    with cancellation.heard(lambda: told.append("there")):
        cancellation.cancel()
        cancellation.cancel()
    with cancellation.heard(lambda: told.append("late")):
        assert told == ["there", "late"]
    assert told == ["there", "late"]
    with pytest.raises(CancelledError):
        cancellation.check()


class Gated(FakeBackend):
    """Stands still in every step until it is let on."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.inside, self._permits = threading.Event(), threading.Semaphore(0)

    def let_on(self, steps=1):
        self._permits.release(steps)

    def step(self, *arguments):
        self.inside.set()
        assert self._permits.acquire(timeout=PATIENCE)
        return super().step(*arguments)


class Asking(threading.Thread):
    """Reads an answer to its end."""

    def __init__(self, scheduler, one):
        super().__init__(daemon=True)
        self.cancel = one.standing.cancellation.cancel
        self.pieces, self.error = [], None
        self._stream = scheduler.run(one)
        self.start()

    def run(self):
        try:
            self.pieces.extend(self._stream)
        except CancelledError as error:
            self.error = error

    def ended(self):
        self.join(PATIENCE)
        assert not self.is_alive()
        return self


def gated(slots, *, budget_bytes=None, **chunks):
    backend = Gated(vocabulary_size=40, slots=slots, capacity=64)
    pool = SlotPool(slots, 64, bytes_of=backend.slot_bytes, budget_bytes=budget_bytes)
    return backend, Scheduler(backend, pool, **chunks)


def wanted(prompt, **settings):
    return decoding(prompt, standing=Standing(), **settings)


def wait_until(condition):
    for _ in range(int(PATIENCE / 0.002)):
        if condition():
            return
        threading.Event().wait(0.002)
    raise AssertionError("it did not happen in time")


@pytest.mark.parametrize("reason", ["slots", "bytes"])
def test_one_that_waits_leaves_while_a_step_runs(reason):
    if reason == "slots":
        backend, scheduler = gated(1)
    else:
        # Each may want all the memory that there is, so that one goes after the other.
        backend, scheduler = gated(4, budget_bytes=FakeBackend(vocabulary_size=40).slot_bytes(64))
    first = Asking(scheduler, wanted([1], max_tokens=63))
    assert backend.inside.wait(PATIENCE)
    second = Asking(scheduler, wanted([2], max_tokens=63))
    wait_until(lambda: scheduler.waiting == 1)
    backend.let_on()
    wait_until(lambda: first.pieces and scheduler._followers)  # its turn has not come
    second.cancel()  # the next step stands still
    assert second.ended().error is not None
    assert scheduler.waiting == 0
    assert second.pieces == []
    backend.let_on(100)
    assert ids(first.ended().pieces) == alone([1], max_tokens=63)


@pytest.mark.parametrize("stage", ["prompt", "answer"])
def test_one_that_follows_leaves_while_a_step_runs(stage):
    backend, scheduler = gated(2, prefill_chunk=2)
    ones = [wanted([number] * 20, max_tokens=64) for number in (1, 2)]
    threads = [Asking(scheduler, one) for one in ones]
    while not all(one.computed if stage == "prompt" else one.pending for one in ones):
        backend.let_on()
        wait_until(lambda: not backend._permits._value)
    wait_until(lambda: scheduler._followers)
    is_first = scheduler._followers[0][0] is ones[0]
    follower, leader = threads if is_first else reversed(threads)
    follower.cancel()
    assert follower.ended().error is not None
    assert scheduler.pool.free_slots == 0  # the step still stands
    backend.let_on(100)
    assert len(ids(leader.ended().pieces)) == 45  # all that 64 tokens have room for
    assert scheduler.pool.free_slots == 2


def test_one_that_leads_leaves_after_its_step_and_another_leads_on():
    backend, scheduler = gated(2)
    first = Asking(scheduler, wanted([1], max_tokens=64))
    assert backend.inside.wait(PATIENCE)
    second = Asking(scheduler, wanted([2], max_tokens=64))
    wait_until(lambda: len(scheduler._followers) == 1)
    first.cancel()
    backend.let_on(100)
    assert first.ended().error is not None
    assert ids(second.ended().pieces) == alone([2], max_tokens=64)
    assert scheduler.pool.free_slots == 2
    assert scheduler.working == scheduler.waiting == 0


def test_one_that_leads_while_it_waits_leaves_what_it_led():
    """Nobody reads the first answer, so the thread that waits for its slot computes it."""
    backend, scheduler = make(1)
    first = scheduler.run(decoding([1], max_tokens=60))
    collected = [next(first)]
    second = wanted([2])
    step = backend.step

    def cancelling(*arguments):
        if backend.steps == 10:
            second.standing.cancellation.cancel()
        return step(*arguments)

    backend.step = cancelling
    with pytest.raises(CancelledError):
        next(scheduler.run(second))
    assert backend.steps == 11
    assert ids([*collected, *first]) == alone([1], max_tokens=60)


def test_what_was_made_before_is_not_given_out_after():
    _, scheduler = make(2)
    one = wanted([1], max_tokens=9)
    pieces = scheduler.run(one)
    next(pieces)
    next(scheduler.run(decoding([2], max_tokens=9)))  # computes a token of the first as well
    one.standing.cancellation.cancel()
    assert one.slot is None
    with pytest.raises(CancelledError):
        next(pieces)


def test_one_that_is_not_wanted_at_all_never_begins():
    backend, scheduler = make(1)
    one = wanted([1])
    one.standing.cancellation.cancel()
    with pytest.raises(CancelledError):
        next(scheduler.run(one))
    assert backend.steps == scheduler.waiting == 0


def test_an_encoder_decoder_is_left_in_its_turn_and_before_it(tmp_path):
    with load(write_fake_sequence_bundle(tmp_path / "b", reply="eins zwei")) as model:
        running, waiting = Standing(), Standing()
        pieces = model.stream("one two", standing=running)
        next(pieces)
        ends = []

        def ask():
            try:
                next(model.stream("three", standing=waiting))
            except CancelledError as error:
                ends.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        waiting.cancellation.cancel()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert len(ends) == 1
        running.cancellation.cancel()
        with pytest.raises(CancelledError):
            next(pieces)
        assert model.generate("one two").text == "eins zwei"

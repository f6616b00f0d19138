"""A scheduler over a back end whose logits are a hash of everything a slot has seen."""

from edgewise.runtime.backends.fake import FakeBackend, FakeGraph
from edgewise.runtime.decoding import Decoding
from edgewise.runtime.scheduler import Scheduler
from edgewise.runtime.slot_pool import LEAST_COPIED, SlotPool

VOCABULARY = 40
TEMPLATE = list(range(LEAST_COPIED + 4))


def greedy(logits):
    return int(logits.argmax())


def make(slots=4, capacity=64, *, rows_share_work=True, step_seconds=0.0, reuse=True, **numbers):
    backend = FakeBackend(
        vocabulary_size=VOCABULARY,
        slots=slots,
        capacity=capacity,
        graph=FakeGraph(step_seconds=step_seconds),
    )
    backend.rows_share_work = rows_share_work
    pool = SlotPool(
        slots, capacity, bytes_of=backend.slot_bytes, on_release=backend.release, reuse=reuse
    )
    return backend, Scheduler(backend, pool, **numbers)


def alone(prompt, *, max_tokens=8, end_ids=(), capacity=64):
    """The same answer without a cache: the whole history, each time."""
    backend = FakeBackend(vocabulary_size=VOCABULARY)
    history, answer = list(prompt), []
    while True:
        token = greedy(backend.logits_after(history))
        history.append(token)
        answer.append(token)
        if token in end_ids or len(answer) == max_tokens or len(history) > capacity:
            return answer


def decoding(prompt, **settings):
    return Decoding(list(prompt), greedy, **{"max_tokens": 8, **settings})


def ids(pieces):
    return [token for piece in pieces for token in piece.token_ids]


def in_turn(scheduler, decodings):
    """Take a piece of each in turn, from one thread, until all have ended."""
    running = [(scheduler.run(one), []) for one in decodings]
    left = list(running)
    while left:
        for entry in list(left):
            piece = next(entry[0], None)
            if piece is None:
                left.remove(entry)
            else:
                entry[1].append(piece)
    return [pieces for _, pieces in running]

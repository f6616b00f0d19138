"""Libraries that panic inside a step, and programs that are ended inside one."""

import json
import threading

import numpy as np
import pytest
from scheduling import alone, decoding, greedy, ids, make

from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.constraint import Constraint
from edgewise.runtime.decoding import Decoding
from edgewise.runtime.engine_error import EngineError
from edgewise.runtime.output_format import FormatError, OutputFormat
from edgewise.runtime.scheduler import Scheduler
from edgewise.runtime.slot_pool import SlotPool


class PanicException(BaseException):
    """As pyo3 raises it: no Exception."""


class Panicking:
    """Follows a format of anything until it panics in one of its methods."""

    complete = False

    def __init__(self, where, tokens=3):
        self._where, self._left = where, tokens

    def _enter(self, method):
        if method == self._where:
            self._left -= 1
            if self._left < 0:
                raise PanicException("called `Option::unwrap()` on a `None` value")

    def forced(self):
        self._enter("forced")
        return ()

    def likely(self):
        return ()

    def begin_mask(self):
        self._enter("begin_mask")

    def apply(self, logits):
        self._enter("apply")

    def accept(self, token):
        self._enter("accept")


@pytest.mark.parametrize("where", ["forced", "begin_mask", "apply", "accept"])
@pytest.mark.parametrize("leads", [True, False])
def test_a_panic_in_a_format_ends_its_own_request_only(where, leads):
    _, scheduler = make(3)
    good = scheduler.run(decoding([1], max_tokens=12))
    collected = [next(good)]
    bad = scheduler.run(Decoding([2], greedy, max_tokens=9, constraint=Panicking(where)))
    taken = []

    def read_bad():
        with pytest.raises(RuntimeError, match="PanicException: called"):
            taken.extend(bad)

    if leads:
        read_bad()
    else:  # the good one's thread runs the step that panics
        next(bad)
        collected += good
        read_bad()
    assert ids([*collected, *good]) == alone([1], max_tokens=12)
    assert scheduler.pool.free_slots == 3
    assert scheduler.working == scheduler.waiting == 0
    # What the failed one had computed is good for others.
    assert ids(scheduler.run(decoding([2], max_tokens=9))) == alone([2], max_tokens=9)


def test_threads_beside_a_panic_get_their_answers():
    _, scheduler = make(4, step_seconds=0.0005)
    answers, failures = {}, []

    def ask(number):
        format_ = Panicking("apply", number) if number % 3 == 0 else None
        one = Decoding([number], greedy, max_tokens=10, constraint=format_)
        try:
            answers[number] = ids(scheduler.run(one))
        except RuntimeError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    expected = {n: alone([n], max_tokens=10) for n in range(12) if n % 3}
    assert answers == expected
    assert len(failures) == 4
    assert scheduler.pool.free_slots == 4


def test_a_panic_in_the_thread_that_computes_masks_is_the_requests_own(byte_compiler):
    """With llguidance's own thread and a machine that gives up in it."""

    class Machine:
        def __getattr__(self, name):
            return getattr(real._machine, name)

        def compute_bitmask(self):
            raise PanicException("in another thread")

    real = byte_compiler.compile(OutputFormat.regex("[a-z]{4}"))
    backend = FakeBackend(vocabulary_size=300, slots=2, capacity=64)
    scheduler = Scheduler(backend, SlotPool(2, 64, bytes_of=backend.slot_bytes))
    followed = Constraint(Machine(), byte_compiler._tokenizer, byte_compiler._workers)
    bad = Decoding([5], greedy, constraint=followed)
    with pytest.raises(RuntimeError, match="PanicException: in another thread"):
        list(scheduler.run(bad))
    formed = byte_compiler.compile(OutputFormat.regex("[a-z]{4}"))
    assert len(ids(scheduler.run(Decoding([5], greedy, constraint=formed)))) == 4


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_is_not_held_up(kind):
    _, scheduler = make(3)
    count = 0

    def choose(logits):
        nonlocal count
        count += 1
        if count == 3:
            raise kind
        return greedy(logits)

    beside = scheduler.run(decoding([1], max_tokens=20))
    next(beside)
    with pytest.raises(kind):
        list(scheduler.run(Decoding([2], choose, max_tokens=9)))
    with pytest.raises(EngineError, match="broken off"):
        list(beside)
    assert scheduler.pool.free_slots == 3
    assert scheduler.working == 0
    # A program that goes on has a model that works, and nothing of the half step is used again.
    for prompt in ([1], [2]):
        (one,) = [decoding(prompt, max_tokens=20)]
        assert ids(scheduler.run(one)) == alone(prompt, max_tokens=20)
        assert one.reused == 0


def test_very_many_forced_tokens_are_fed_in_chunks(byte_compiler):
    widths = []

    class Measured(FakeBackend):
        def step(self, first_slot, token_ids, past_lengths, counts=None):
            widths.append(token_ids.shape[1])
            return super().step(first_slot, token_ids, past_lengths, counts)

    backend = Measured(vocabulary_size=300, slots=1, capacity=256)
    scheduler = Scheduler(backend, SlotPool(1, 256, bytes_of=backend.slot_bytes), prefill_chunk=16)
    wanted = OutputFormat.lark('start: /[x-z]/ "' + "a" * 100 + '" /[x-z]/')
    one = Decoding([1], greedy, max_tokens=200, constraint=byte_compiler.compile(wanted))
    answer = ids(scheduler.run(one))
    assert len(answer) == 102
    history = [1, *answer[:-1]]
    assert backend._histories[0] == history
    logits = backend.logits_after(history)
    constraint = byte_compiler.compile(wanted)
    constraint.accept(answer[0])
    assert len(constraint.forced()) == 100
    constraint.apply(logits)
    assert answer[-1] == greedy(logits)
    assert max(widths) == 16
    assert len(widths) == 1 + 7


HARD = {
    "deep array": OutputFormat.json_schema(
        json.loads('{"type":"array","items":' * 60 + '{"type":"integer"}' + "}" * 60)
    ),
    "endless reference": OutputFormat.json_schema({"$ref": "#"}),
    "no text at all": OutputFormat.regex("[^\\s\\S]"),
    "many repeats": OutputFormat.regex("((a{1,1000}){1,1000}){1,1000}"),
    "states without number": OutputFormat.regex("(a|b)*a(a|b){25}c"),
    "very many digits": OutputFormat.json_schema({"type": "integer", "minimum": 10**400}),
    "very long": OutputFormat.json_schema({"type": "string", "maxLength": 10**12}),
    "products of choices": OutputFormat.json_schema(
        {
            "allOf": [
                {"anyOf": [{"properties": {f"p{i}{j}": {}}, "required": [f"p{i}{j}"]}
                           for j in range(6)]}
                for i in range(8)
            ]
        }
    ),
    "open brackets": OutputFormat.regex("(" * 5000 + "a" + ")" * 5000),
    "ambiguous": OutputFormat.lark('start: s\ns: s s s | s s | "a" | ""'),
    "endless rule": OutputFormat.lark('start: start | ""'),
    "token beyond the vocabulary": OutputFormat.lark("start: <[999999999]>"),
    "a million items": OutputFormat.lark('start: a{1000000}\na: "x" | "y"'),
    "nothing": OutputFormat.lark("start: A\nA: /[a-z]+/ & ~/[a-z]+/"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARD)
def test_hard_formats_are_followed_or_refused_and_hurt_nobody(byte_compiler, name):
    backend = FakeBackend(vocabulary_size=300, slots=2, capacity=64)
    scheduler = Scheduler(backend, SlotPool(2, 64, bytes_of=backend.slot_bytes))
    beside = scheduler.run(Decoding([3], greedy, max_tokens=60))
    collected = [next(beside)]
    random = np.random.default_rng(0)
    answer, refusal = [], None
    try:
        constraint = byte_compiler.compile(HARD[name])
        one = Decoding(
            [5],
            lambda logits: int((logits + random.normal(size=300)).argmax()),
            max_tokens=40,
            end_ids={0},
            constraint=constraint,
        )
        answer = ids(scheduler.run(one))
    except FormatError as error:
        refusal = error
    assert 1 <= len(answer) <= 40 if refusal is None else "can not be" in str(refusal)
    expected = FakeBackend(vocabulary_size=300)
    history = [3]
    for _ in range(60):
        history.append(greedy(expected.logits_after(history)))
    assert ids([*collected, *beside]) == history[1:]

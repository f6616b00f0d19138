"""Many prompts at once over a back end whose logits are a hash of everything a slot has seen.

A token lost, doubled, leaked from a neighbour or written into the wrong place changes every later
answer, so that equality with an answer computed alone is the whole proof.
"""

import json
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling import TEMPLATE, VOCABULARY, alone, decoding, greedy, ids, in_turn, make

from edgewise.runtime.admission import LateError, Standing
from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.decoding import Decoding
from edgewise.runtime.model import ModelError
from edgewise.runtime.output_format import OutputFormat
from edgewise.runtime.scheduler import Scheduler
from edgewise.runtime.slot_pool import ContextError, SlotPool


def test_one_answer_is_what_the_whole_history_gives():
    _, scheduler = make(capacity=24, prefill_chunk=3)
    pieces = list(scheduler.run(decoding([1, 2, 3, 4, 5, 6, 7], max_tokens=5)))
    assert ids(pieces) == alone([1, 2, 3, 4, 5, 6, 7], max_tokens=5)
    assert [piece.token_ids for piece in pieces[:2]] == [(), ()]  # two chunks of the prompt
    assert pieces[-1].finished == "length"
    assert pieces[-1].statistics.prompt_tokens == 7
    assert pieces[-1].statistics.generated_tokens == 5
    assert [piece.finished for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert scheduler.pool.free_slots == 4


def test_a_full_context_gives_one_more_token():
    _, scheduler = make(capacity=8)
    assert ids(scheduler.run(decoding(range(8), max_tokens=99))) == alone(range(8), max_tokens=1)
    assert len(ids(scheduler.run(decoding(range(6), max_tokens=99)))) == 3


def test_a_prompt_that_can_not_fit_is_refused_before_anything():
    backend, scheduler = make(capacity=8)
    with pytest.raises(ContextError, match="has 9 tokens"):
        next(scheduler.run(decoding(range(9))))
    with pytest.raises(ContextError, match="empty"):
        next(scheduler.run(decoding([])))
    assert backend.steps == 0
    assert scheduler.waiting == 0


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_crowd_gets_what_each_would_get_alone(data):
    slots = data.draw(st.integers(1, 4))
    _, scheduler = make(
        slots,
        rows_share_work=data.draw(st.booleans()),
        prefill_chunk=data.draw(st.integers(1, 20)),
        busy_chunk=data.draw(st.integers(1, 20)),
        reuse=data.draw(st.booleans()),
    )
    prompts = []
    for _ in range(data.draw(st.integers(1, 8))):
        shared = data.draw(st.sampled_from([0, 3, len(TEMPLATE)]))
        own = data.draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12))
        prompts.append([*TEMPLATE[:shared], *own])
    lengths = [data.draw(st.integers(1, 9)) for _ in prompts]
    ends = data.draw(st.sets(st.integers(0, VOCABULARY - 1), max_size=3))
    decodings = [
        decoding(prompt, max_tokens=length, end_ids=ends)
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    results = in_turn(scheduler, decodings)
    for prompt, length, pieces in zip(prompts, lengths, results, strict=True):
        assert ids(pieces) == alone(prompt, max_tokens=length, end_ids=ends)
    assert scheduler.pool.free_slots == slots
    assert scheduler.working == scheduler.waiting == 0


def test_answers_share_their_steps():
    backend, scheduler = make(4)
    in_turn(scheduler, [decoding([n], max_tokens=8) for n in range(4)])
    # A prompt each, then a token of all that run at once: far from 4 times 8 steps.
    assert backend.steps <= 4 + 8 + 3
    backend, scheduler = make(4, rows_share_work=False)
    in_turn(scheduler, [decoding([n], max_tokens=8) for n in range(4)])
    assert backend.steps == 4 * 8


def test_a_prompt_is_read_in_smaller_chunks_while_answers_run():
    backend, scheduler = make(2, prefill_chunk=16, busy_chunk=4)
    first = scheduler.run(decoding([1], max_tokens=30))
    next(first)
    before = backend.steps
    second = scheduler.run(decoding(range(16), max_tokens=2))
    list(second)
    # Four chunks, beside each of which the first answer got its token, and one more step for two.
    assert backend.steps == before + 4 * 2 + 1
    assert ids(first) == alone([1], max_tokens=30)[1:]


def test_a_shared_beginning_is_computed_once():
    computed = []
    backend, scheduler = make(4, prefill_chunk=64)
    step = backend.step

    def counting(first, token_ids, pasts, counts=None):
        computed.append(token_ids.size)
        return step(first, token_ids, pasts, counts)

    backend.step = counting
    decodings = [decoding([*TEMPLATE, n], max_tokens=1) for n in range(8)]
    results = in_turn(scheduler, decodings)
    assert [ids(pieces) for pieces in results] == [
        alone([*TEMPLATE, n], max_tokens=1) for n in range(8)
    ]
    assert sum(computed) == len(TEMPLATE) + 1 + 7
    assert [one.reused for one in decodings] == [0] + [len(TEMPLATE)] * 7
    assert results[3][-1].statistics.reused_tokens == len(TEMPLATE)


@pytest.mark.parametrize("taken", [1, 2, 3, 5])
def test_closing_cancels_at_a_chunk_or_a_token_and_frees_the_slot(taken):
    backend, scheduler = make(prefill_chunk=3)
    pieces = scheduler.run(decoding(range(9), max_tokens=9))
    for _ in range(taken):
        next(pieces)
    assert scheduler.pool.free_slots == 3
    pieces.close()
    assert scheduler.pool.free_slots == 4
    assert backend.steps == taken


def test_whoever_waits_works_for_all():
    _, scheduler = make(1)
    with ExitStack() as stack:
        first = scheduler.run(decoding([1], max_tokens=4))
        stack.callback(first.close)
        next(first)
        second = scheduler.run(decoding([2], max_tokens=4))
        answer = []
        thread = threading.Thread(target=lambda: answer.extend(second))
        thread.start()
        thread.join(10)
        # The second's thread led: it finished the first, then itself.
        assert ids(answer) == alone([2], max_tokens=4)
        assert ids(first) == alone([1], max_tokens=4)[1:]


def test_the_slot_is_free_when_the_last_piece_is_given_out():
    _, scheduler = make(1)
    pieces = scheduler.run(decoding([1], max_tokens=2))
    assert next(pieces).finished is None
    assert next(pieces).finished == "length"
    assert scheduler.pool.free_slots == 1


class Broken(FakeBackend):
    """Fails whenever a certain token is fed."""

    poison = 13

    def step(self, first_slot, token_ids, past_lengths, counts=None):
        if (token_ids == self.poison).any():
            raise ZeroDivisionError("poison")
        return super().step(first_slot, token_ids, past_lengths, counts)


def test_a_failing_engine_ends_the_requests_of_that_call_only():
    backend = Broken(vocabulary_size=VOCABULARY, slots=3, capacity=64)
    scheduler = Scheduler(backend, SlotPool(3, 64, bytes_of=backend.slot_bytes))
    good = scheduler.run(decoding([1, 2], max_tokens=6))
    collected = [next(good)]
    bad = scheduler.run(decoding([13, 2], max_tokens=6))
    with pytest.raises(ZeroDivisionError):
        next(bad)
    collected += good
    assert ids(collected) == alone([1, 2], max_tokens=6)
    assert scheduler.pool.free_slots == 3
    assert ids(scheduler.run(decoding([1, 2], max_tokens=6))) == alone([1, 2], max_tokens=6)


def test_a_failing_sampler_ends_its_own_request_only():
    _, scheduler = make(3)

    def choose(logits):
        raise ArithmeticError("no number")

    good = scheduler.run(decoding([1], max_tokens=5))
    collected = [next(good)]
    with pytest.raises(ArithmeticError):
        list(scheduler.run(Decoding([2], choose, max_tokens=5)))
    assert ids([*collected, *good]) == alone([1], max_tokens=5)
    assert scheduler.pool.free_slots == 3


def test_a_request_whose_deadline_has_passed_never_begins():
    backend, scheduler = make(1)
    late = decoding([1], standing=Standing(deadline=time.monotonic() - 1))
    with pytest.raises(LateError, match="deadline"):
        list(scheduler.run(late))
    assert backend.steps == 0
    assert scheduler.waiting == 0


def test_a_higher_priority_begins_first():
    _, scheduler = make(1)
    first = scheduler.run(decoding([1], max_tokens=3))
    next(first)
    begun = []

    def noting(name):
        def choose(logits):
            begun.append(name)
            return greedy(logits)

        return choose

    low = Decoding([2], noting("low"), max_tokens=1)
    high = Decoding([3], noting("high"), max_tokens=1, standing=Standing(priority=1))
    scheduler._waiting.put(low)
    list(scheduler.run(high))
    assert begun == ["high"]


def test_closing_the_scheduler_ends_what_runs():
    _, scheduler = make(2)
    pieces = scheduler.run(decoding([1], max_tokens=20))
    next(pieces)
    scheduler.close()
    scheduler.close()
    with pytest.raises(ModelError, match="closed"):
        list(pieces)
    with pytest.raises(ModelError):
        next(scheduler.run(decoding([1])))
    assert scheduler.pool.free_slots == 2


@pytest.mark.parametrize("rows_share_work", [True, False])
def test_many_threads_get_what_each_would_get_alone(rows_share_work):
    _, scheduler = make(
        4, rows_share_work=rows_share_work, step_seconds=0.0003, prefill_chunk=8, busy_chunk=3
    )
    prompts = [[*TEMPLATE[: n % 7], n, 2 * n % VOCABULARY] for n in range(24)]
    answers = {}

    def ask(number):
        pieces = scheduler.run(decoding(prompts[number], max_tokens=10))
        if number % 5 == 4:  # some leave early
            next(pieces)
            pieces.close()
        else:
            answers[number] = ids(pieces)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert answers == {
        number: alone(prompts[number], max_tokens=10) for number in range(24) if number % 5 != 4
    }
    assert scheduler.pool.free_slots == 4
    assert scheduler.working == scheduler.waiting == 0


def test_closing_wakes_threads_that_wait():
    _, scheduler = make(1, step_seconds=0.002)
    ends = []

    def ask():
        try:
            list(scheduler.run(decoding([1], max_tokens=60)))
        except ModelError as error:
            ends.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while scheduler.working + scheduler.waiting < 4:
        time.sleep(0.001)
    scheduler.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(ends) == 4


def test_the_order_of_neighbours_does_not_change_sampled_tokens():
    def sampled(seed):
        random = np.random.default_rng(seed)
        return lambda logits: int((logits + random.gumbel(size=len(logits))).argmax())

    def run(order):
        _, scheduler = make(3)
        decodings = {n: Decoding([n, 7], sampled(n), max_tokens=6) for n in order}
        results = in_turn(scheduler, decodings.values())
        return {n: ids(pieces) for n, pieces in zip(decodings, results, strict=True)}

    assert run([1, 2, 3, 4, 5]) == run([5, 3, 1, 2, 4])


def test_a_request_that_waits_can_be_cancelled():
    _, scheduler = make(1, step_seconds=0.002)
    first = scheduler.run(decoding([1], max_tokens=4))
    next(first)
    waiting = decoding([2], max_tokens=60)
    scheduler._waiting.put(waiting)
    scheduler._cancel(waiting)
    assert scheduler.waiting == 0
    assert ids(first) == alone([1], max_tokens=4)[1:]
    assert waiting.slot is None


def test_forced_tokens_go_through_the_engine_together(byte_compiler, byte_tokenizer):
    schema = {
        "type": "object",
        "properties": {"temperature": {"type": "integer"}, "open": {"type": "boolean"}},
        "required": ["temperature", "open"],
        "additionalProperties": False,
    }
    size = byte_tokenizer.get_vocab_size() + 5
    backend = FakeBackend(vocabulary_size=size, slots=3, capacity=256)
    scheduler = Scheduler(backend, SlotPool(3, 256, bytes_of=backend.slot_bytes))
    formed = [
        Decoding(
            [number, 7],
            greedy,
            max_tokens=200,
            end_ids={0},
            constraint=byte_compiler.compile(OutputFormat.json_schema(schema)),
        )
        for number in (1, 2)
    ]
    free = Decoding([3], greedy, max_tokens=60)
    *results, beside = in_turn(scheduler, [*formed, free])
    for number, pieces in zip((1, 2), results, strict=True):
        answer = ids(pieces)
        assert set(json.loads(byte_tokenizer.decode(answer))) == {"temperature", "open"}
        assert pieces[-1].finished == "stop"
        assert pieces[-1].statistics.generated_tokens == len(answer)
        # The same answer, a token a step and the whole history each time.
        constraint, history = byte_compiler.compile(OutputFormat.json_schema(schema)), [number, 7]
        for token in answer:
            logits = backend.logits_after(history)
            constraint.apply(logits)
            assert np.isfinite(logits[token])
            if (logits > -np.inf).sum() > 1 and not constraint._machine.compute_ff_tokens():
                assert greedy(logits) == token
            if token != 0:
                constraint.accept(token)
            history = [*history, token]
    assert ids(beside)[:5] == _alone_in(size, [3], 5)
    assert backend.steps < 70  # though the two objects alone have more tokens than that
    assert sum(len(ids(pieces)) for pieces in results) > 70


def _alone_in(size, prompt, count):
    backend, history = FakeBackend(vocabulary_size=size), list(prompt)
    for _ in range(count):
        history.append(greedy(backend.logits_after(history)))
    return history[len(prompt) :]


def test_a_format_ends_at_max_tokens_even_in_the_middle_of_what_is_forced(byte_compiler):
    backend = FakeBackend(vocabulary_size=300, slots=1, capacity=256)
    scheduler = Scheduler(backend, SlotPool(1, 256, bytes_of=backend.slot_bytes))
    wanted = OutputFormat.choice(["temperature"])
    one = Decoding([1], greedy, max_tokens=4, constraint=byte_compiler.compile(wanted))
    pieces = list(scheduler.run(one))
    assert len(ids(pieces)) == 4
    assert pieces[-1].finished == "length"
    one = Decoding([1], greedy, max_tokens=40, constraint=byte_compiler.compile(wanted))
    pieces = list(scheduler.run(one))
    assert pieces[-1].finished == "stop"
    assert pieces[-1].statistics is not None

"""The waiting line: bounded, by priority, then by client and deadline, then by arrival."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.device.job import Job
from edgewise.device.ledger import Key
from edgewise.device.reply_messages import Failure
from edgewise.device.reply_stream import ReplyStream
from edgewise.device.request_messages import Request
from edgewise.device.waiting_line import WaitingLine


def job(name: str = "q", *, priority: int = 5, deadline: float = 100.0, client: str = "s") -> Job:
    replies = ReplyStream(
        name,
        streamed=True,
        send_chunk=lambda _chunk: None,
        send_end=lambda _end: None,
        interval_seconds=0.0,
    )
    request = Request(name, prompt="x", priority=priority)
    return Job(Key(client, name), "generate", request, replies, arrived_at=10.0, deadline=deadline)


def settle(one: Job) -> None:
    one.replies.settle(lambda _text, _chunks: Failure(one.request.id, 500, ""))


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=20))
def test_higher_priority_first_then_first_come_first_served(priorities: list[int]) -> None:
    line = WaitingLine(100)
    jobs = [job(str(index), priority=value) for index, value in enumerate(priorities)]
    for one in jobs:
        assert line.put(one)
    expected = sorted(jobs, key=lambda one: -one.request.priority)
    assert [line.take() for _ in jobs] == expected


def test_it_is_bounded_and_a_settled_job_gives_its_place_back() -> None:
    line = WaitingLine(2)
    jobs = [job(str(index)) for index in range(3)]
    assert [line.put(one) for one in jobs] == [True, True, False]
    settle(jobs[0])
    line.drop_settled()
    assert len(line) == 1
    assert line.put(jobs[2])


def test_closing_wakes_who_waits_and_gives_back_who_stood() -> None:
    line = WaitingLine(2)
    taken: list[Job | None] = []
    thread = threading.Thread(target=lambda: taken.append(line.take()))
    thread.start()
    assert line.close() == []
    thread.join(10)
    assert taken == [None]
    other = WaitingLine(2)
    left = job()
    other.put(left)
    assert other.close() == [left]
    assert not other.put(job())


def names_taken(line: WaitingLine, count: int) -> list[str]:
    taken = [line.take() for _ in range(count)]
    return [one.request.id for one in taken if one is not None]


def test_a_client_that_was_given_much_comes_after_one_that_was_not() -> None:
    line = WaitingLine(10)
    for name in ("greedy 1", "greedy 2", "greedy 3", "quiet 1", "quiet 2"):
        line.put(job(name, client=name.split()[0]))
    assert names_taken(line, 1) == ["greedy 1"]
    line.count("greedy", 50)
    assert names_taken(line, 1) == ["quiet 1"]
    line.count("quiet", 60)
    assert names_taken(line, 1) == ["greedy 2"]
    line.count("greedy", 50)
    assert names_taken(line, 2) == ["quiet 2", "greedy 3"]


def test_among_one_clients_own_the_earlier_deadline_comes_first() -> None:
    line = WaitingLine(10)
    for name, deadline in (("later", 90.0), ("soon", 20.0), ("in between", 50.0)):
        line.put(job(name, deadline=deadline))
    assert names_taken(line, 3) == ["soon", "in between", "later"]


def test_those_that_share_a_turn_are_taken_in_their_order() -> None:
    line = WaitingLine(10)
    for name, priority in (("a", 1), ("b", 9), ("other", 9), ("c", 5)):
        line.put(job(name, priority=priority))
    taken = line.take_also(lambda one: one.request.id != "other")
    assert [one.request.id for one in taken] == ["b", "c", "a"]
    assert names_taken(line, 1) == ["other"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_job_that_a_worker_stands_ready_for_takes_no_place(workers: int) -> None:
    line = WaitingLine(1)
    taken: list[Job | None] = []
    threads = [threading.Thread(target=lambda: taken.append(line.take())) for _ in range(workers)]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + 10
    while line._ready < workers:
        assert time.monotonic() < give_up
    with line._changed:  # as if all came before any worker has woken up
        assert [line.put(job(str(number))) for number in range(workers + 2)] == [
            *[True] * (workers + 1),
            False,
        ]
        assert len(line) == 1
    for thread in threads:
        thread.join(10)
    assert len(taken) == workers
    assert len(line) == 1

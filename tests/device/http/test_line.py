"""The line before the engine: turns, fairness, and what is refused when it is full."""

from __future__ import annotations

from functools import partial

import pytest

from edgewise.device.http.api_errors import ApiError
from edgewise.device.http.line import RETRY_MOST, Line


@pytest.fixture
def begun():
    return []


@pytest.fixture
def join(begun):
    def joined(line, name, client="one"):
        return line.join(client, partial(begun.append, name))

    return joined


def test_as_many_begin_as_there_are_places_and_the_others_in_their_order(begun, join):
    line = Line(2, 8)
    a, b, c, d = (join(line, name) for name in "abcd")
    assert begun == ["a", "b"]
    assert (line.begun, line.waiting) == (2, 2)
    line.leave(b)
    assert begun == ["a", "b", "c"]
    line.leave(b)  # twice is once
    assert begun == ["a", "b", "c"]
    line.leave(a)
    line.leave(c)
    line.leave(d)
    assert begun == ["a", "b", "c", "d"]
    assert (line.begun, line.waiting) == (0, 0)


def test_who_leaves_before_the_turn_never_begins(begun, join):
    line = Line(1, 8)
    a, b, _ = (join(line, name) for name in "abc")
    line.leave(b)
    assert line.waiting == 1
    line.leave(a)
    assert begun == ["a", "c"]


def test_a_client_that_was_given_less_comes_before_one_that_was_given_more(begun, join):
    line = Line(1, 8)
    first = join(line, "a1", "a")
    line.count(first, 100)
    tickets = [join(line, "a2", "a"), join(line, "a3", "a"), join(line, "b1", "b")]
    line.count(first, 1)  # while it goes on
    line.leave(first)
    line.count(tickets[2], 1)
    line.leave(tickets[2])
    line.leave(tickets[0])
    assert begun == ["a1", "b1", "a2", "a3"]


def test_a_full_line_says_when_to_come_again(begun, join):
    line = Line(1, 2)
    for name in "abc":
        line.check_room(1)
        join(line, name)
    with pytest.raises(ApiError, match="1 answers are generated and 2 wait") as caught:
        line.check_room(1)
    assert caught.value.status == 429
    assert 1 <= int(caught.value.headers["retry-after"]) <= RETRY_MOST
    assert begun == ["a"]


def test_room_is_for_all_of_a_request_or_none():
    line = Line(1, 2)
    line.check_room(3)
    with pytest.raises(ApiError, match="room for 3 more, not for 4"):
        line.check_room(4)

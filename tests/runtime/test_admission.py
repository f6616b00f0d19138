"""Whose turn it is."""

from dataclasses import dataclass

from edgewise.runtime.admission import CLIENTS_MAX, AdmissionQueue, Standing


@dataclass(frozen=True)
class Item:
    name: str
    standing: Standing


def queue_of(*items):
    queue = AdmissionQueue()
    for item in items:
        queue.put(item)
    return queue


def drain(queue, tokens=10):
    """Begin everything in turn; each is given some tokens at once."""
    names = []
    while (item := queue.peek()) is not None:
        assert queue.remove(item)
        names.append(item.name)
        queue.count(item.standing.client, tokens)
    return names


def test_equals_begin_as_they_came():
    assert drain(queue_of(*(Item(name, Standing()) for name in "abc"))) == ["a", "b", "c"]


def test_priority_goes_before_all():
    items = [Item("a", Standing()), Item("b", Standing(priority=2)), Item("c", Standing("x", 1))]
    assert drain(queue_of(*items)) == ["b", "c", "a"]


def test_an_earlier_deadline_goes_before_an_earlier_arrival():
    items = [
        Item("a", Standing()),
        Item("b", Standing(deadline=9.0)),
        Item("c", Standing(deadline=5.0)),
    ]
    assert drain(queue_of(*items)) == ["c", "b", "a"]


def test_a_client_that_asks_much_does_not_hold_up_another():
    many = [Item(f"m{n}", Standing("greedy")) for n in range(4)]
    assert drain(queue_of(*many, Item("s", Standing("sensor")))) == ["m0", "s", "m1", "m2", "m3"]


def test_a_client_that_comes_back_has_saved_nothing_up():
    queue = queue_of(*(Item(f"m{n}", Standing("greedy")) for n in range(4)))
    queue.count("greedy", 1000)
    for n in range(3):
        queue.put(Item(f"s{n}", Standing("sensor")))
    order = drain(queue)
    assert order[:4] in (["m0", "s0", "m1", "s1"], ["s0", "m0", "s1", "m1"])


def test_late_requests_are_found_wherever_they_stand():
    items = [Item("a", Standing(priority=1)), Item("b", Standing(deadline=5.0))]
    queue = queue_of(*items)
    assert queue.late(5.0) == []
    assert queue.late(5.1) == [items[1]]
    assert len(queue) == 2


def test_what_is_not_there_can_not_be_removed():
    item = Item("a", Standing())
    queue = queue_of(item)
    assert queue.remove(item)
    assert not queue.remove(item)
    assert queue.peek() is None


def test_the_counts_of_many_clients_are_bounded():
    queue = AdmissionQueue()
    for number in range(CLIENTS_MAX + 10):
        queue.count(f"client {number}", number + 1)
    assert len(queue._served) == CLIENTS_MAX
    queue.put(Item("new", Standing("new")))
    assert queue.peek().name == "new"

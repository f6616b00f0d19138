import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.kv_cache import ContextError, NoFreeSlotError, SlotTable


def test_slots_are_taken_from_the_lowest_and_come_back_empty():
    table = SlotTable(3, 8)
    assert [table.allocate() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(NoFreeSlotError, match="all 3 slots"):
        table.allocate()
    table.append(1, 5)
    table.free(1)
    assert table.free_slots == 1
    assert table.allocate() == 1
    assert table.length(1) == 0


def test_append_returns_where_the_tokens_go():
    table = SlotTable(1, 8)
    slot = table.allocate()
    assert table.append(slot, 3) == 0
    assert table.append(slot, 4) == 3
    assert table.room(slot) == 1
    with pytest.raises(ContextError, match=r"7 \+ 2 tokens do not fit into a context of 8"):
        table.append(slot, 2)
    assert table.length(slot) == 7
    table.trim(slot, 2)
    assert table.append(slot, 6) == 2
    assert table.room(slot) == 0


def test_prompt_error_gives_both_numbers():
    table = SlotTable(1, 8)
    table.check_prompt(8)
    with pytest.raises(ContextError, match="the prompt has 9 tokens, the context holds 8"):
        table.check_prompt(9)
    with pytest.raises(EdgewiseError, match="empty"):
        table.check_prompt(0)


@pytest.mark.parametrize("slot", [-1, 0, 1, 7])
def test_a_slot_that_is_not_held_is_a_fault_of_the_program(slot):
    table = SlotTable(2, 8)
    for call in (table.free, table.length, table.room):
        with pytest.raises(ValueError, match=f"slot {slot} is not held"):
            call(slot)
    with pytest.raises(ValueError, match="not held"):
        table.append(slot, 1)


def test_impossible_arguments():
    with pytest.raises(ValueError, match="needs slots"):
        SlotTable(0, 8)
    with pytest.raises(ValueError, match="needs slots"):
        SlotTable(1, 0)
    table = SlotTable(1, 8)
    slot = table.allocate()
    with pytest.raises(ValueError, match="can not append"):
        table.append(slot, -1)
    for length in (-1, 1):
        with pytest.raises(ValueError, match="holds 0 tokens"):
            table.trim(slot, length)


class Bookkeeping(RuleBasedStateMachine):
    """Any sequence of calls, against a dict."""

    def __init__(self):
        super().__init__()
        self.table = SlotTable(3, 10)
        self.held: dict[int, int] = {}

    @rule()
    def allocate(self):
        if len(self.held) == 3:
            with pytest.raises(NoFreeSlotError):
                self.table.allocate()
        else:
            slot = self.table.allocate()
            assert slot not in self.held
            self.held[slot] = 0

    @precondition(lambda self: self.held)
    @rule(data=st.data(), count=st.integers(0, 11))
    def append(self, data, count):
        slot = data.draw(st.sampled_from(sorted(self.held)))
        if self.held[slot] + count > 10:
            with pytest.raises(ContextError):
                self.table.append(slot, count)
        else:
            assert self.table.append(slot, count) == self.held[slot]
            self.held[slot] += count

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def trim(self, data):
        slot = data.draw(st.sampled_from(sorted(self.held)))
        self.held[slot] = data.draw(st.integers(0, self.held[slot]))
        self.table.trim(slot, self.held[slot])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data):
        slot = data.draw(st.sampled_from(sorted(self.held)))
        self.table.free(slot)
        del self.held[slot]

    @invariant()
    def agrees(self):
        assert self.table.free_slots == 3 - len(self.held)
        for slot, length in self.held.items():
            assert self.table.length(slot) == length
            assert self.table.room(slot) == 10 - length


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)

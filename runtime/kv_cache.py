"""Who holds which slot of the cache, and how much of it is valid. Knows no tensor.

Workflow: `allocate` a slot, `append` before each step (it says where the new tokens go), `trim` to
take tokens back, `free` at the end. The table is the only memory of lengths: a backend has none.

Rules: a fault of the caller's program (a slot that is not held) is a ValueError; what a user can
cause (a prompt longer than the context) is a `ContextError` with both numbers.
"""

from __future__ import annotations

from edgewise.common.errors import EdgewiseError


class ContextError(EdgewiseError):
    """More tokens than a slot, or the memory for the cache, can hold."""


class NoFreeSlotError(EdgewiseError):
    """Every slot is held."""


class SlotTable:
    """The slots of one cache."""

    def __init__(self, slots: int, capacity: int) -> None:
        """Begin with every slot free.

        Args:
            slots: Sequences that the cache holds at once, at least 1.
            capacity: Tokens that each slot can hold, at least 1.
        """
        if slots < 1 or capacity < 1:
            raise ValueError(f"a cache needs slots and capacity, not {slots} and {capacity}")
        self.capacity = capacity
        self._lengths: list[int | None] = [None] * slots  # None: free

    @property
    def free_slots(self) -> int:
        """How many slots can be allocated."""
        return self._lengths.count(None)

    def allocate(self) -> int:
        """Take the lowest free slot, empty.

        Raises:
            NoFreeSlotError: Every slot is held.
        """
        if None not in self._lengths:
            raise NoFreeSlotError(
                f"all {len(self._lengths)} slots of the cache are in use; end a generation first"
            )
        slot = self._lengths.index(None)
        self._lengths[slot] = 0
        return slot

    def free(self, slot: int) -> None:
        """Give a slot back; its content is forgotten."""
        self.length(slot)
        self._lengths[slot] = None

    def length(self, slot: int) -> int:
        """Return how many tokens of a held slot are valid."""
        length = self._lengths[slot] if 0 <= slot < len(self._lengths) else None
        if length is None:
            raise ValueError(f"slot {slot} is not held")
        return length

    def room(self, slot: int) -> int:
        """Return how many tokens still fit into a held slot."""
        return self.capacity - self.length(slot)

    def append(self, slot: int, count: int) -> int:
        """Reserve the next ``count`` positions of a held slot.

        Returns:
            The length before, which is the first of the new positions.

        Raises:
            ContextError: They do not fit; nothing is reserved then.
        """
        length = self.length(slot)
        if count < 0:
            raise ValueError(f"can not append {count} tokens")
        if length + count > self.capacity:
            raise ContextError(
                f"{length} + {count} tokens do not fit into a context of {self.capacity}"
            )
        self._lengths[slot] = length + count
        return length

    def trim(self, slot: int, length: int) -> None:
        """Keep the first ``length`` tokens of a held slot."""
        if not 0 <= length <= self.length(slot):
            raise ValueError(f"slot {slot} holds {self.length(slot)} tokens, not {length}")
        self._lengths[slot] = length

    def check_prompt(self, tokens: int) -> None:
        """Refuse a prompt that no slot can hold.

        Raises:
            ContextError: It is longer than the capacity, or empty.
        """
        check_prompt_length(tokens, self.capacity)


def check_prompt_length(tokens: int, capacity: int) -> None:
    """Refuse a prompt that no slot can hold.

    Args:
        tokens: The prompt's length.
        capacity: Tokens that a slot can hold.

    Raises:
        ContextError: It is longer than the capacity, or empty.
    """
    if tokens < 1:
        raise ContextError("the prompt is empty; give at least one token")
    if tokens > capacity:
        raise ContextError(
            f"the prompt has {tokens} tokens, the context holds {capacity}: shorten it, or"
            " load the bundle with a longer context if it allows one"
        )

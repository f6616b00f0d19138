"""Who holds which slot of the cache, what stands in it, and how many bytes that takes.

Workflow: `lease` a slot for a prompt (it says which first tokens need not be computed, and where
they are), `append` before each step, `trim` to take tokens back, `give_back` at the end. A slot
that was given back keeps its content until the place is needed: the next prompt that begins alike
finds it. The pool is the only memory of what slots hold; a backend has none, the pool no tensor.

Rules: the bytes of all slots together never pass the budget. What does not fit now waits; what can
never fit is a `ContextError` with the numbers. A prompt's last token is always computed, for its
logits are needed. A slot that nobody holds is used again in place when most of what it holds is
shared, otherwise what is shared is copied and the rest stays for its own continuation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.prefix_tree import PrefixTree

LEAST_COPIED = 16  # tokens; computing fewer costs no more than copying or keeping them


class ContextError(EdgewiseError):
    """More tokens than a slot, or the memory for the cache, can hold."""


@dataclass(frozen=True)
class Lease:
    """A slot for a prompt.

    Attributes:
        slot: The slot, now held.
        reused: The first tokens of the prompt that need not be computed.
        copied_from: The slot whose first ``reused`` tokens must be copied into this one before
            anything else; None: they are there.
    """

    slot: int
    reused: int
    copied_from: int | None = None


@dataclass
class _Slot:
    """What the pool knows of one slot."""

    tokens: list[int]  # whose keys and values are valid
    held: bool = False
    reserved: int = 0  # tokens that the holder may need
    written: int = 0  # tokens whose memory is taken, valid or not
    used: int = 0  # when it was last held, in leases


class SlotPool:
    """The slots of one cache."""

    def __init__(
        self,
        slots: int,
        capacity: int,
        *,
        bytes_of: Callable[[int], int] | None = None,
        budget_bytes: int | None = None,
        reuse: bool = True,
        on_evict: Callable[[int, tuple[int, ...]], None] | None = None,
        on_release: Callable[[int], None] | None = None,
    ) -> None:
        """Begin with every slot empty.

        Args:
            slots: Sequences that the cache holds at once, at least 1.
            capacity: Tokens that each slot can hold, at least 1.
            bytes_of: Memory that a slot takes once this many tokens were written to it.
            budget_bytes: What all slots may take together; None: what they take when full.
            reuse: Whether content outlives its holder.
            on_evict: Told a slot and its tokens just before they are lost to another prompt.
            on_release: Told a slot whose memory must be given back to the system.
        """
        if slots < 1 or capacity < 1:
            raise ValueError(f"a cache needs slots and capacity, not {slots} and {capacity}")
        self.capacity = capacity
        self._bytes_of = bytes_of if bytes_of is not None else lambda tokens: tokens
        full = slots * self._bytes_of(capacity)
        self.budget_bytes = full if budget_bytes is None else min(budget_bytes, full)
        self._reuse = reuse
        self._on_evict = on_evict if on_evict is not None else lambda _slot, _tokens: None
        self._on_release = on_release if on_release is not None else lambda _slot: None
        self._slots = [_Slot([]) for _ in range(slots)]
        self._tree: PrefixTree[int] = PrefixTree()
        self._leases = 0

    @property
    def free_slots(self) -> int:
        """How many slots nobody holds."""
        return sum(not slot.held for slot in self._slots)

    @property
    def bytes_taken(self) -> int:
        """What all slots take, counting what their holders may still need."""
        return sum(self._bytes_of(max(slot.written, slot.reserved)) for slot in self._slots)

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt that `check_prompt` takes."""
        return self._affordable(0, self.capacity)

    def check_prompt(self, tokens: int) -> None:
        """Refuse a prompt that no slot can ever hold.

        Args:
            tokens: The prompt's length.

        Raises:
            ContextError: It is empty, longer than the capacity, or takes more than the budget.
        """
        if tokens < 1:
            raise ContextError("the prompt is empty; give at least one token")
        if tokens > self.capacity:
            raise ContextError(
                f"the prompt has {tokens} tokens, the context holds {self.capacity}: shorten it, or"
                " load the bundle with a longer context if it allows one"
            )
        if self._bytes_of(tokens) > self.budget_bytes:
            raise ContextError(
                f"the prompt has {tokens} tokens, whose keys and values take "
                f"{self._bytes_of(tokens)} bytes; the cache may take {self.budget_bytes}: shorten "
                "it, or give the cache more memory"
            )

    def lease(self, prompt: Sequence[int], answer_tokens: int) -> Lease | None:
        """Hold a slot for a prompt and its answer.

        Args:
            prompt: Token ids that `check_prompt` takes.
            answer_tokens: How many may follow; fewer are reserved where capacity or budget end.

        Returns:
            The slot, or None: every slot is held, or memory has to become free first.
        """
        free = [index for index, slot in enumerate(self._slots) if not slot.held]
        if not free:
            return None
        wanted = self._affordable(len(prompt), min(len(prompt) + answer_tokens, self.capacity))
        target, reused, source = self._place(prompt, free)
        if not self._make_room(target, wanted, reused=reused, source=source):
            if source not in free:
                return None
            # Together the two do not fit, so the content is used up where it stands.
            target, source = source, None
            if not self._make_room(target, wanted, reused=reused, source=None):
                return None
        slot = self._slots[target]
        kept = 0 if source is not None else reused
        if len(slot.tokens) - kept >= LEAST_COPIED or not kept:
            self._evict(target)
        self._tree.remove(target)
        self._leases += 1
        slot.tokens = list(prompt[:reused])
        slot.held, slot.reserved, slot.used = True, wanted, self._leases
        slot.written = max(slot.written, reused)
        return Lease(target, reused, source)

    def _affordable(self, least: int, wanted: int) -> int:
        """Return the most tokens up to ``wanted`` that the budget has bytes for."""
        over = bisect_right(
            range(least + 1, wanted + 1),
            self.budget_bytes,
            key=self._bytes_of,
        )
        return least + over

    def _place(self, prompt: Sequence[int], free: list[int]) -> tuple[int, int, int | None]:
        """Choose a free slot, how much is reused, and the slot that it is copied from if any."""
        match = self._tree.longest(prompt[:-1])
        shared = match.length
        here = [index for index in free if index in match.keys]
        # The slot that loses least when it is used again in place.
        nearest = min(here, key=lambda index: len(self._slots[index].tokens), default=None)
        if nearest is not None and len(self._slots[nearest].tokens) - shared <= shared:
            return nearest, shared, None
        others = [index for index in free if index not in match.keys] or free
        target = min(
            others, key=lambda index: (bool(self._slots[index].tokens), self._slots[index].used)
        )
        if target in match.keys:
            return target, shared, None
        if shared < LEAST_COPIED:
            return target, 0, None
        return target, shared, min(match.keys)

    def _make_room(self, target: int, wanted: int, *, reused: int, source: int | None) -> bool:
        """Release slots, the one that was unused longest first, until the budget holds."""

        def excess() -> int:
            slot = self._slots[target]
            own = self._bytes_of(max(slot.written, slot.reserved))
            new = self._bytes_of(max(slot.written, wanted))
            return self.bytes_taken - own + new - self.budget_bytes

        releasable = [
            index
            for index, slot in sorted(enumerate(self._slots), key=lambda item: item[1].used)
            if not slot.held and slot.written and index not in (target, source)
        ]
        if (source is not None or reused == 0) and self._slots[target].written:  # nothing is needed
            releasable.append(target)
        while excess() > 0 and releasable:
            self._release(releasable.pop(0))
        return excess() <= 0

    def _evict(self, index: int) -> None:
        slot = self._slots[index]
        if slot.tokens:
            self._on_evict(index, tuple(slot.tokens))
            self._tree.remove(index)
            slot.tokens = []

    def _release(self, index: int) -> None:
        self._evict(index)
        self._slots[index].written = 0
        self._on_release(index)

    def fill(self, slot: int, tokens: Sequence[int]) -> None:
        """Note that a slot which was just leased holds these tokens, the prompt's first, instead.

        Args:
            slot: A held slot.
            tokens: What was written into it from elsewhere.
        """
        held = self._held(slot)
        held.tokens = list(tokens)
        held.written = max(held.written, len(held.tokens))

    def length(self, slot: int) -> int:
        """Return how many tokens of a held slot are valid."""
        return len(self._held(slot).tokens)

    def tokens(self, slot: int) -> tuple[int, ...]:
        """Return the tokens of a held slot that are valid."""
        return tuple(self._held(slot).tokens)

    def readable_length(self, slot: int) -> int:
        """Return how many tokens of any slot are valid."""
        return len(self._slots[slot].tokens)

    def room(self, slot: int) -> int:
        """Return how many tokens still fit into what a held slot has reserved."""
        held = self._held(slot)
        return held.reserved - len(held.tokens)

    def append(self, slot: int, tokens: Sequence[int]) -> int:
        """Note the next tokens of a held slot.

        Returns:
            The length before, which is the first of the new positions.

        Raises:
            ContextError: They do not fit; nothing is noted then.
        """
        held = self._held(slot)
        length = len(held.tokens)
        if len(tokens) > self.room(slot):
            raise ContextError(
                f"{length} + {len(tokens)} tokens do not fit into a context of {held.reserved}"
            )
        held.tokens += tokens
        held.written = max(held.written, len(held.tokens))
        return length

    def trim(self, slot: int, length: int) -> None:
        """Keep the first ``length`` tokens of a held slot."""
        held = self._held(slot)
        if not 0 <= length <= len(held.tokens):
            raise ValueError(f"slot {slot} holds {len(held.tokens)} tokens, not {length}")
        del held.tokens[length:]
        if len(self._tree.sequence(slot)) > length:
            self._tree.insert(slot, held.tokens)

    def share(self, slot: int) -> None:
        """Let prompts that begin as a held slot's present content copy from it."""
        held = self._held(slot)
        if self._reuse:
            self._tree.insert(slot, held.tokens)

    def give_back(self, slot: int, *, intact: bool = True) -> None:
        """End a lease.

        Args:
            slot: A held slot.
            intact: Whether the content is what was noted; False after a failed step.
        """
        held = self._held(slot)
        held.held, held.reserved = False, 0
        if self._reuse and intact and held.tokens:
            self._tree.insert(slot, held.tokens)
        else:
            self._tree.remove(slot)
            held.tokens = []

    def scratch(self, slot: int) -> int | None:
        """Return where a slot that a step passes over may be written, or None: nowhere.

        A step works on neighbouring slots, of which some may have nothing to compute. What it
        writes there must lie behind what is valid.
        """
        passed = self._slots[slot]
        length = len(passed.tokens)
        if passed.held:
            return length if length < passed.reserved else None
        if not passed.written or length == self.capacity:
            return None
        if length == passed.written:
            growth = self._bytes_of(length + 1) - self._bytes_of(length)
            if self.bytes_taken + growth > self.budget_bytes:
                return None
            passed.written += 1
        return length

    def _held(self, slot: int) -> _Slot:
        if not 0 <= slot < len(self._slots) or not self._slots[slot].held:
            raise ValueError(f"slot {slot} is not held")
        return self._slots[slot]

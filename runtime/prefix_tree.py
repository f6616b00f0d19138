"""Which of several token sequences shares the longest beginning with another one.

Workflow: `insert` what is held under a key, ask `longest` before a prompt is computed, `remove`
what is held no longer. It is a radix tree (Morrison 1968): an edge carries a run of tokens, and a
question costs the length of the answer, however many sequences there are.

Rules: one sequence a key; sequences may be equal. The tree knows tokens and keys, not caches.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Match(NamedTuple, Generic[Key]):
    """The answer to a question."""

    length: int  # tokens that are shared
    keys: frozenset[Key]  # whose sequences begin with them; empty if the length is 0


@dataclass
class _Node(Generic[Key]):
    """A run of tokens and what may follow it."""

    run: tuple[int, ...]
    keys: set[Key] = field(default_factory=set)  # of every sequence that passes through or ends
    children: dict[int, _Node[Key]] = field(default_factory=dict)  # by the first token of their run


class PrefixTree(Generic[Key]):
    """Token sequences by their beginnings."""

    def __init__(self) -> None:
        """Begin with none."""
        self._root: _Node[Key] = _Node(())
        self._sequences: dict[Key, tuple[int, ...]] = {}

    def __len__(self) -> int:
        """Return how many sequences are held."""
        return len(self._sequences)

    def __contains__(self, key: Key) -> bool:
        """Tell whether a key has a sequence."""
        return key in self._sequences

    def sequence(self, key: Key) -> tuple[int, ...]:
        """Return a key's tokens; without a sequence, none."""
        return self._sequences.get(key, ())

    def insert(self, key: Key, tokens: Sequence[int]) -> None:
        """Hold a sequence under a key, in place of the one it had."""
        self.remove(key)
        sequence = tuple(tokens)
        self._sequences[key] = sequence
        node, position = self._root, 0
        while True:
            node.keys.add(key)
            if position == len(sequence):
                return
            child = node.children.get(sequence[position])
            if child is None:
                node.children[sequence[position]] = _Node(sequence[position:], {key})
                return
            shared = _shared(child.run, sequence, position)
            if shared < len(child.run):
                node.children[sequence[position]] = child = _split(child, shared)
            node, position = child, position + shared

    def remove(self, key: Key) -> None:
        """Forget a key's sequence, if it has one."""
        sequence = self._sequences.pop(key, None)
        if sequence is None:
            return
        path = [self._root]
        position = 0
        while position < len(sequence):
            child = path[-1].children[sequence[position]]
            path.append(child)
            position += len(child.run)
        for node in path:
            node.keys.discard(key)
        for parent, node in pairwise(path):
            if not node.keys:
                del parent.children[node.run[0]]
                break
        for node in reversed(path[1:]):
            _join_only_child(node)

    def longest(self, tokens: Sequence[int]) -> Match[Key]:
        """Return how many first tokens some sequence shares with these, and all that do.

        Args:
            tokens: The beginning to look for.
        """
        node, position = self._root, 0
        while position < len(tokens):
            child = node.children.get(tokens[position])
            if child is None:
                break
            shared = _shared(child.run, tokens, position)
            node, position = child, position + shared
            if shared < len(child.run):
                break
        return Match(position, frozenset(node.keys) if position else frozenset())


def _shared(run: Sequence[int], tokens: Sequence[int], start: int) -> int:
    """Return how many tokens of a run equal those from ``start`` on."""
    length = min(len(run), len(tokens) - start)
    for index in range(length):
        if run[index] != tokens[start + index]:
            return index
    return length


def _split(node: _Node[Key], length: int) -> _Node[Key]:
    """Return a node with the first part of a run, whose only child has the rest."""
    upper: _Node[Key] = _Node(node.run[:length], set(node.keys), {node.run[length]: node})
    node.run = node.run[length:]
    return upper


def _join_only_child(node: _Node[Key]) -> None:
    """Take an only child's run and children where no sequence ends between the two."""
    if len(node.children) != 1:
        return
    (child,) = node.children.values()
    if node.keys == child.keys:
        node.run += child.run
        node.children = child.children

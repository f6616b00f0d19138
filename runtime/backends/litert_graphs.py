"""Which of a model's graphs runs next. Knows no engine.

A .tflite bundle has graphs for one token and for chunks of several, each behind a cache of a fixed
number of positions. All of that cache is computed with, whatever of it is filled, so the smallest
that holds the past is the fastest. A bundle that checks drafts has chunks besides that give the
logits of every token. Rules: a chunk may be padded behind its real tokens; a graph without a cache
runs only where there is no past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A token's products cost about as much as attending to this many positions (SmolLM2-135M).
POSITIONS_WORTH_A_TOKEN = 300
# Reading all weights for one token takes about as long as computing this many in one chunk.
TOKENS_WORTH_A_STEP = 12


@dataclass(frozen=True)
class Graph:
    """One graph of a model."""

    name: str
    tokens: int  # new tokens at once, padding included
    cache: int  # positions of cache
    verifies: bool = False  # whether it gives the logits of every token

    @property
    def cost(self) -> int:
        """How long it takes beside others; of no unit."""
        tokens = max(self.tokens, TOKENS_WORTH_A_STEP)
        return tokens * POSITIONS_WORTH_A_TOKEN + self.tokens * self.cache


def next_graph(graphs: Sequence[Graph], past: int, remaining: int) -> Graph:
    """Choose the graph for the next tokens of a sequence: the least cost for each real token.

    Args:
        graphs: The model's.
        past: Positions that are filled.
        remaining: Tokens that wait, at least 1.

    Returns:
        A graph whose cache holds the past; it takes min(its tokens, remaining) of them.
    """
    possible = [graph for graph in graphs if graph.cache >= past]
    if not possible:
        raise ValueError(f"no graph has a cache of {past} positions")
    return min(possible, key=lambda graph: graph.cost / min(graph.tokens, remaining))


def bucket_for(graphs: Sequence[Graph], positions: int) -> int:
    """Return the smallest cache that holds this many positions."""
    return min(graph.cache for graph in graphs if graph.cache >= positions)

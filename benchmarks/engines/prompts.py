"""Prompts of random token ids, the same for every engine.

Rules: ids that a tokenizer reserves at the ends of its vocabulary are left out; the standard
library's generator makes them, for an engine's environment may lack numpy.
"""

from __future__ import annotations

import random

RESERVED_IDS = 10  # at either end of the vocabulary


def token_ids(count: int, vocabulary_size: int, seed: str) -> list[int]:
    """Return random ids."""
    chance = random.Random(seed)  # noqa: S311  # repeatable, and no secret
    return chance.choices(range(RESERVED_IDS, vocabulary_size - RESERVED_IDS), k=count)


def sharing_prompts(
    count: int, shared: int, own: int, vocabulary_size: int, seed: str
) -> list[list[int]]:
    """Return prompts that have their first tokens in common, and those alone.

    Args:
        count: How many.
        shared: Tokens that all begin with.
        own: Tokens of each behind them.
        vocabulary_size: Ids go up to here.
        seed: Other seeds give prompts that share nothing with these.
    """
    beginning = token_ids(shared, vocabulary_size, f"{seed} shared")
    return [
        beginning + token_ids(own, vocabulary_size, f"{seed} own {number}")
        for number in range(count)
    ]

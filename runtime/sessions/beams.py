"""Drives a beam search with an engine: a row of the search is a slot of the cache.

Rules: the search begins in slot 0, after the prompt; the backend has a slot for each beam. What a
search overwrites is never needed again, so slots are copied one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.protocol import SlotBackend
from edgewise.runtime.beam_search import BeamSearch

Weigh = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Makes log-probabilities [rows, vocabulary] of logits, which it may overwrite."""


def run_search(
    backend: SlotBackend, search: BeamSearch, logits: NDArray[np.float32], past: int, weigh: Weigh
) -> Generator[None, None, None]:
    """Search to the end; closing the generator cancels.

    Args:
        backend: The engine.
        search: Which has not begun.
        logits: [1, vocabulary], after the prompt.
        past: Tokens in slot 0, which the engine has computed.
        weigh: Says what each row's next token is worth.

    Yields:
        Nothing, before each step of the engine.
    """
    while True:
        parents, token_ids = search.advance(weigh(logits))
        if not len(parents):
            return
        for row, parent in enumerate(parents.tolist()):
            if parent != row:
                backend.copy_prefix(parent, row, past)
        yield
        lengths = np.full(len(token_ids), past, np.int32)
        logits = backend.step(0, token_ids[:, None], lengths)
        past += 1

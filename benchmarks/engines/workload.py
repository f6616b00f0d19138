"""What a process that runs an engine is asked to do; it comes as JSON in its one argument.

Kinds: "speed" (prompts and generation, one at a time), "cold" (start of the process to the first
token), "cold_packing" (the same without what an earlier run has packed; no figures where nothing is
ever packed), "memory" (peaks over one long prompt and its answer), "together" (many requests at
once), "template" (the same beginning again and again) and "extraction" (JSON by a schema).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Workload:
    """One process's task.

    Attributes:
        kind: See the module's docstring.
        model: What the engine loads.
        threads: That compute.
        prefill: Lengths of prompts to time, tokens.
        histories: Tokens before the generation that is timed.
        new_tokens: Tokens of that generation, or of each request's answer.
        requests: Of "together".
        slots: Sequences that an engine holds at once.
        shared: Tokens that all requests begin with.
        own: Tokens of each request behind them.
        context: Tokens that the cache must hold for a sequence.
        repeats: How often a thing is timed, after a first time that does not count; the median is
            the figure.
        begin: When the process was started, of the system's monotonic clock, in seconds.
    """

    kind: str
    model: str
    threads: int
    context: int
    begin: float
    prefill: tuple[int, ...] = ()
    histories: tuple[int, ...] = ()
    new_tokens: int = 1
    requests: int = 1
    slots: int = 1
    shared: int = 0
    own: int = 0
    repeats: int = 3

    @classmethod
    def read(cls) -> Workload:
        """Read the process's argument."""
        given: dict[str, Any] = json.loads(sys.argv[1])
        for name in ("prefill", "histories"):
            given[name] = tuple(given.get(name, ()))
        return cls(**given)

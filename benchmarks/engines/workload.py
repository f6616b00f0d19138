"""What every engine of ``benchmarks/compare.py`` is asked to do, and how it is measured.

Workflow: `compare.py` starts an engine's script in a process of its own with one argument, a
`Workload` as JSON; the script hands `measure` a function that loads the model, and the figures come
back as the last line of its output. Needs numpy alone, for each engine has its own environment.

Rules: the same random ids for all; nothing is timed that has not run once before, but for a cold
start, which begins when the process is started.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

POLL_SECONDS = 0.005
REPEATS = 3
MEBIBYTE = 1 << 20
Figures = dict[str, float]


@dataclass(frozen=True)
class Workload:
    """One process's task.

    Attributes:
        kind: "speed", "cold" (start to first token), "cold_packing" (the same without what an
            earlier run has packed; no figures where nothing is ever packed) or "memory".
        model: What the engine loads.
        threads: That compute.
        prefill: Lengths of prompts to time, tokens.
        histories: Tokens before the generation that is timed.
        new_tokens: Tokens of that generation.
        begin: When the process was started, of the system's monotonic clock.
    """

    kind: str
    model: str
    threads: int
    prefill: tuple[int, ...]
    histories: tuple[int, ...]
    new_tokens: int
    begin: float

    @classmethod
    def read(cls) -> Workload:
        """Read the process's argument."""
        given: dict[str, Any] = json.loads(sys.argv[1])
        for name in ("prefill", "histories"):
            given[name] = tuple(given[name])
        return cls(**given)

    @property
    def capacity(self) -> int:
        """Tokens that the cache must hold for all of it."""
        if self.kind == "speed":
            longest = max(*self.prefill, *self.histories)
        elif self.kind == "memory":
            longest = max(self.prefill)
        else:
            longest = min(self.histories)
        return longest + self.new_tokens + 1


class LoadedEngine(Protocol):
    """A model that is ready."""

    @property
    def vocabulary_size(self) -> int:
        """Ids go up to here."""
        ...

    def run(self, token_ids: Sequence[int], count: int) -> tuple[float, float]:
        """Read a prompt into an empty cache and generate greedily, whatever token ends a text.

        Returns:
            Seconds to the first token, and seconds from there to the last.
        """
        ...


class AnonymousPeak:
    """Watches a process's anonymous memory; a context manager."""

    def __init__(self, process: int | None = None) -> None:
        """Watch this process, or another."""
        self._status = Path(f"/proc/{process or 'self'}/status")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.anonymous_bytes = 0
        self.peak_bytes = 0

    def __enter__(self) -> AnonymousPeak:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look a last time."""
        self._ended.set()
        self._thread.join()

    def figures(self) -> Figures:
        """Return the peaks in MiB."""
        return {
            "peak_rss_mib": self.peak_bytes / MEBIBYTE,
            "anonymous_rss_mib": self.anonymous_bytes / MEBIBYTE,
        }

    def _watch(self) -> None:
        while True:
            last = self._ended.wait(POLL_SECONDS)
            try:
                lines = self._status.read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                return
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            if "RssAnon" in fields:  # a process that has ended has none
                anonymous, peak = (1024 * int(fields[f].split()[0]) for f in ("RssAnon", "VmHWM"))
                self.anonymous_bytes = max(self.anonymous_bytes, anonymous)
                self.peak_bytes = max(self.peak_bytes, peak)
            if last:
                return


def measure(load: Callable[[Workload], LoadedEngine | None]) -> int:
    """Do what this process was started for and print the figures.

    Args:
        load: Loads the model; None says that the workload does not apply to it.
    """
    workload = Workload.read()
    with AnonymousPeak() as memory:
        engine = load(workload)
        figures = {} if engine is None else _timed(engine, workload)
    if engine is not None and workload.kind == "memory":
        figures = memory.figures()
    print(json.dumps(figures))
    return 0


def _timed(engine: LoadedEngine, workload: Workload) -> Figures:
    import numpy as np  # noqa: PLC0415 - where an engine is a program, numpy is not needed

    random = np.random.default_rng(0)
    longest = max(*workload.prefill, *workload.histories)
    ids = random.integers(10, engine.vocabulary_size - 10, longest).tolist()
    if workload.kind == "memory":
        engine.run(ids[: max(workload.prefill)], workload.new_tokens)
        return {}
    if workload.kind != "speed":
        engine.run(ids[: min(workload.histories)], 1)
        return {f"{workload.kind}_seconds": time.monotonic() - workload.begin}
    figures = {}
    for tokens in workload.prefill:
        seconds = _repeated(lambda count=tokens: engine.run(ids[:count], 1)[0])
        figures[f"prefill_{tokens}"] = tokens / seconds
    for history in workload.histories:
        seconds = _repeated(
            lambda count=history: engine.run(ids[:count], workload.new_tokens + 1)[1]
        )
        figures[f"decode_{history}"] = workload.new_tokens / seconds
    return figures


def _repeated(run: Callable[[], float]) -> float:
    run()
    return statistics.median(run() for _ in range(REPEATS))

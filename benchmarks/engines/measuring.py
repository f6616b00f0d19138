"""How an engine's figures are taken, the same way for all.

Workflow: `compare.py` starts an engine's script in a process of its own; the script hands `measure`
a function that loads the model, and the figures come back as the last line of its output. Each
engine has its own environment, so nothing but the standard library is needed here.

Rules: nothing is timed that has not run once before, but for a cold start, which begins when the
process is started. Prompts of one repetition share nothing with those of another, so that no cache
helps that is not meant to. An engine that lacks a method does not offer what it is for, which gives
no figures.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import extraction
from memory_peak import MemoryPeak
from prompts import sharing_prompts, token_ids
from workload import Workload

TEMPLATES = 4
WARM_REQUESTS = 3  # of each template
EXTRACTIONS = 3
Figures = dict[str, float]


class LoadedEngine(Protocol):
    """A model that is ready."""

    @property
    def vocabulary_size(self) -> int:
        """Ids go up to here."""
        ...

    def run(self, token_ids: Sequence[int], count: int) -> tuple[float, float]:
        """Read a prompt and generate greedily, whatever token ends a text.

        Begins with an empty cache, but for the kinds "together" and "template", where an engine
        may keep what it has computed.

        Returns:
            Seconds to the first token, and seconds from there to the last.
        """
        ...


@runtime_checkable
class ServingEngine(Protocol):
    """One that takes several requests at once."""

    def run_together(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """Answer all prompts with a number of tokens each; return the seconds that it took."""
        ...


@runtime_checkable
class CachingEngine(Protocol):
    """One that keeps the beginnings of prompts by itself."""

    @property
    def keeps_beginnings(self) -> bool:
        """Whether it does so now."""
        ...


@dataclass(frozen=True)
class Answer:
    """What came of a prompt in words.

    Attributes:
        text: The answer.
        tokens: Of it.
        rate: Tokens after the first in a second.
    """

    text: str
    tokens: int
    rate: float


@runtime_checkable
class ExtractingEngine(Protocol):
    """One that keeps an answer to a JSON schema."""

    def extract(self, prompt: str, max_tokens: int) -> Answer:
        """Answer by `extraction.SCHEMA`."""
        ...

    def continue_text(self, prompt: str, tokens: int) -> Answer:
        """Generate freely, exactly so many tokens."""
        ...


def measure(load: Callable[[Workload], LoadedEngine | None]) -> int:
    """Do what this process was started for and print the figures.

    Args:
        load: Loads the model; None says that the workload does not apply to it.
    """
    workload = Workload.read()
    with MemoryPeak() as memory:
        engine = load(workload)
        figures = {} if engine is None else timed(engine, workload)
    if engine is not None and workload.kind == "memory":
        figures = memory.figures()
    print(json.dumps(figures))
    return 0


def timed(engine: LoadedEngine, workload: Workload) -> Figures:
    """Run a workload on a loaded engine and return its figures; none for "memory"."""
    match workload.kind:
        case "speed":
            return _speed(engine, workload)
        case "together":
            return _together(engine, workload)
        case "template":
            return _template(engine, workload)
        case "extraction":
            return _extraction(engine)
        case "memory":
            size = workload.context - workload.new_tokens
            engine.run(token_ids(size, engine.vocabulary_size, "memory"), workload.new_tokens)
            return {}
    engine.run(token_ids(min(workload.histories), engine.vocabulary_size, "cold"), 1)
    return {f"{workload.kind}_seconds": time.monotonic() - workload.begin}


def _speed(engine: LoadedEngine, workload: Workload) -> Figures:
    ids = token_ids(max(workload.prefill + workload.histories), engine.vocabulary_size, "speed")
    figures = {}
    for tokens in workload.prefill:
        seconds, _ = _repeated(engine, ids[:tokens], 1, workload.repeats)
        figures[f"prefill_{tokens}"] = tokens / seconds
    for history in workload.histories:
        count = workload.new_tokens + 1
        _, seconds = _repeated(engine, ids[:history], count, workload.repeats)
        figures[f"decode_{history}"] = workload.new_tokens / seconds
    return figures


def _together(engine: LoadedEngine, workload: Workload) -> Figures:
    if not isinstance(engine, ServingEngine):
        return {}
    seconds = []
    for repeat in range(workload.repeats + 1):
        prompts = sharing_prompts(
            workload.requests,
            workload.shared,
            workload.own,
            engine.vocabulary_size,
            f"together {repeat}",
        )
        seconds.append(engine.run_together(prompts, workload.new_tokens))
    tokens = workload.requests * workload.new_tokens
    return {f"together_{workload.requests}": tokens / statistics.median(seconds[1:])}


def _template(engine: LoadedEngine, workload: Workload) -> Figures:
    cold, warm = [], []
    for template in range(TEMPLATES + 1):
        first, *others = sharing_prompts(
            1 + WARM_REQUESTS,
            workload.shared,
            workload.own,
            engine.vocabulary_size,
            f"template {template}",
        )
        cold.append(engine.run(first, 1)[0])
        if isinstance(engine, CachingEngine) and engine.keeps_beginnings:
            warm += [engine.run(other, 1)[0] for other in others]
    cold_seconds = statistics.median(cold[1:])
    figures = {"template_cold_seconds": cold_seconds}
    if warm:
        warm_seconds = statistics.median(warm[WARM_REQUESTS:])
        figures["template_warm_seconds"] = warm_seconds
        figures["template_warm_share"] = warm_seconds / cold_seconds
    return figures


def _extraction(engine: LoadedEngine) -> Figures:
    if not isinstance(engine, ExtractingEngine):
        return {}
    engine.extract(extraction.prompt(0), extraction.MAX_TOKENS)  # the schema is compiled, or so
    pairs = []
    for number in range(1, EXTRACTIONS + 1):
        text = extraction.prompt(number)
        answer = engine.extract(text, extraction.MAX_TOKENS)
        pairs.append((answer, engine.continue_text(text, answer.tokens)))
    return {
        "extraction_rate": statistics.median(answer.rate for answer, _ in pairs),
        "extraction_plain_rate": statistics.median(plain.rate for _, plain in pairs),
        "extraction_gain": statistics.median(answer.rate / plain.rate for answer, plain in pairs),
        "extraction_valid": statistics.mean(
            extraction.is_valid(answer.text) for answer, _ in pairs
        ),
    }


def _repeated(
    engine: LoadedEngine, ids: Sequence[int], count: int, repeats: int
) -> tuple[float, float]:
    """Return the median seconds to the first token, and from there to the last."""
    engine.run(ids, count)
    runs = [engine.run(ids, count) for _ in range(repeats)]
    return statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs)

"""The workloads by name: what each is, and what its figures are called.

Rule: what is measured is data here; `compare.py` and the engines know the kinds alone. What takes
long is timed once in a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CONTEXT = 1024  # tokens of a sequence, where the workload itself does not say how many
SLOTS = 8


@dataclass(frozen=True)
class Task:
    """One workload.

    Attributes:
        kind: As in engines/workload.py.
        labels: All figures' names with what a reader calls them.
        context: Tokens that a sequence has at most.
        options: More fields of engines/workload.py's `Workload`.
    """

    kind: str
    labels: Mapping[str, str]
    context: int = CONTEXT
    options: Mapping[str, object] = field(default_factory=dict)


def _speed(
    prefill: tuple[int, ...], histories: tuple[int, ...], new_tokens: int, repeats: int = 3
) -> Task:
    labels = {f"prefill_{tokens}": f"prefill of {tokens}, tokens/s" for tokens in prefill}
    labels |= {
        f"decode_{tokens}": f"decode of {new_tokens} after {tokens}, tokens/s"
        for tokens in histories
    }
    options = {
        "prefill": prefill,
        "histories": histories,
        "new_tokens": new_tokens,
        "repeats": repeats,
    }
    return Task("speed", labels, max(prefill + histories) + new_tokens + 1, options)


def _together(requests: int, shared: int, own: int, new_tokens: int, repeats: int = 3) -> Task:
    return Task(
        "together",
        {f"together_{requests}": f"{requests} requests at once, generated tokens/s"},
        shared + own + new_tokens + 1,
        {
            "requests": requests,
            "slots": min(requests, SLOTS),
            "shared": shared,
            "own": own,
            "new_tokens": new_tokens,
            "repeats": repeats,
        },
    )


TASKS: Mapping[str, Task] = {
    "speed": _speed((128, 512), (64, 900), 32),
    "prefill": _speed((512,), (), 1),
    "decode": _speed((), (64,), 128),
    "history": _speed((), (1800,), 64, repeats=1),
    "cold": Task(
        "cold", {"cold_seconds": "cold start to first token, s"}, 128, {"histories": (64,)}
    ),
    "packing": Task(
        "cold_packing",
        {"cold_packing_seconds": "the same, packing weights, s"},
        128,
        {"histories": (64,)},
    ),
    "together-8": _together(8, 48, 16, 32),
    "together-32": _together(32, 48, 16, 32, repeats=1),
    "template": Task(
        "template",
        {
            "template_cold_seconds": "template of 256 + 32 to first token, s",
            "template_warm_seconds": "the same, template seen before, s",
            "template_warm_share": "share of the time that is left",
        },
        512,
        {"shared": 256, "own": 32, "slots": SLOTS},
    ),
    "extraction": Task(
        "extraction",
        {
            "extraction_rate": "JSON extraction, tokens/s",
            "extraction_plain_rate": "free text after the same prompt, tokens/s",
            "extraction_gain": "JSON by free text",
            "extraction_valid": "share of valid JSON",
        },
    ),
    "memory": Task(
        "memory",
        {"peak_rss_mib": "peak RSS, MiB", "anonymous_rss_mib": "peak anonymous RSS, MiB"},
        options={"new_tokens": 32},
    ),
}


def labels(names: list[str]) -> dict[str, str]:
    """Return the labels of some workloads' figures."""
    return {key: label for name in names for key, label in TASKS[name].labels.items()}

"""What the reports of all families of models say alike; each adds the speeds that it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgewise.device.spread import Spread
from edgewise.device.start_figures import StartFigures
from edgewise.runtime.bundle import Manifest


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What a bundle does on this machine.

    Attributes:
        model_id: The model.
        recipe: How its weights are stored.
        profile: The board it was exported for.
        runtime: The engine.
        threads: Threads that computed.
        rounds: Measurements of each speed.
        load_seconds: Opening the bundle and loading the engine, in a fresh process.
        cold_start_seconds: From the start of a process to the first token of an answer to a short
            text, or to an encoder's first result; the files may be in the system's cache.
        peak_rss_bytes: Of a process that answered one request of the full length.
        anonymous_rss_bytes: The part of its memory, at the end, that no file backs; None where the
            system does not say.
    """

    model_id: str
    recipe: str
    profile: str
    runtime: str
    threads: int
    rounds: int
    load_seconds: Spread
    cold_start_seconds: Spread
    peak_rss_bytes: int
    anonymous_rss_bytes: int | None


def common_figures(
    manifest: Manifest, starts: StartFigures, *, threads: int, rounds: int
) -> dict[str, Any]:
    """Return the fields of a `BenchReport` by their names."""
    return {
        "model_id": manifest.model_id,
        "recipe": manifest.recipe,
        "profile": manifest.profile,
        "runtime": manifest.runtime,
        "threads": threads,
        "rounds": rounds,
        **vars(starts),
    }

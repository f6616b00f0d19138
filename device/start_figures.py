"""What the starts of a few fresh processes cost: load time, first answer, memory.

Fresh processes measure memory, because the one that measures may have held other things.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgewise.device.cold_start import measure_cold_start
from edgewise.device.spread import Progress, Spread

COLD_STARTS = 3  # fresh processes, or as many as there are rounds if that is less


@dataclass(frozen=True)
class StartFigures:
    """What fresh processes took; `BenchReport` says what each figure is."""

    load_seconds: Spread
    cold_start_seconds: Spread
    peak_rss_bytes: int
    anonymous_rss_bytes: int | None


def measure_starts(
    path: Path,
    *,
    rounds: int,
    threads: int | None,
    prompt_tokens: int,
    new_tokens: int,
    progress: Progress,
) -> StartFigures:
    """Start a few processes, one after the other.

    Args:
        path: The bundle's folder.
        rounds: Starts at most.
        threads: As for `edgewise.runtime.load`.
        prompt_tokens: Tokens of the request whose memory counts.
        new_tokens: Tokens decoded after it, where the model decodes.
        progress: Told of each step of the stage "start".

    Raises:
        EdgewiseError: The bundle can not be loaded.
    """
    starts = min(rounds, COLD_STARTS)
    cold = []
    for number in range(starts):
        progress("start", number, starts)
        cold.append(
            measure_cold_start(
                path, threads=threads, prompt_tokens=prompt_tokens, new_tokens=new_tokens
            )
        )
    progress("start", starts, starts)
    anonymous = [start.anonymous_rss_bytes for start in cold]
    return StartFigures(
        load_seconds=Spread.of([start.load_seconds for start in cold]),
        cold_start_seconds=Spread.of([start.first_token_seconds for start in cold]),
        peak_rss_bytes=max(start.peak_rss_bytes for start in cold),
        anonymous_rss_bytes=max((count for count in anonymous if count is not None), default=None),
    )

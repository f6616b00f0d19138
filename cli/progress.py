"""Progress bars on stderr, one line a stage.

Workflow: a ``StageBars`` is what a long function takes as its progress callback. On a terminal the
line of the stage that runs is drawn again and again, also while no step ends; elsewhere each stage
gives one line when it has ended. Rules: nothing here is ever written to stdout.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from time import monotonic
from types import MappingProxyType, TracebackType
from typing import Self, TextIO

from edgewise.cli import interrupts
from edgewise.cli.console import is_terminal
from edgewise.cli.figures import seconds

WIDTH = 30  # characters of the bar
REDRAW_SECONDS = 0.1  # no oftener, so that drawing costs nothing
TICK_SECONDS = 0.5  # how often the time goes on where no step ends
CLEAR_LINE = "\r\x1b[K"


def bar_line(label: str, done: int, total: int, elapsed: float) -> str:
    """Draw one bar.

    Args:
        label: What is done.
        done: Steps done.
        total: Steps in all; 0: not known.
        elapsed: Seconds since the stage began.
    """
    share = min(max(done / total, 0.0), 1.0) if total > 0 else 0.0
    filled = int(share * WIDTH)
    percent = f"{share:4.0%}" if total > 0 else "   ?"
    return f"{label:<10} [{'#' * filled}{'.' * (WIDTH - filled)}] {percent}  {seconds(elapsed)}"


class StageBars:
    """A progress callback: ``bars(stage, done, total)``. Use as a context manager."""

    def __init__(
        self,
        labels: Mapping[str, str] = MappingProxyType({}),
        *,
        other: str = "{}",
        leave: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        """Begin with no stage.

        Args:
            labels: What to call a stage, where its name is not it.
            other: What to call a stage without a label; ``{}`` is its name.
            leave: Whether the line of a stage stays when it has ended.
            stream: Where to draw; None: stderr.
        """
        self._labels = labels
        self._other = other
        self._leave = leave
        self._stream = sys.stderr if stream is None else stream
        self._live = is_terminal(self._stream)
        self._stage: str | None = None
        self._done = 0
        self._total = 0
        self._began = 0.0
        self._drawn = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note that ``done`` of ``total`` steps of a stage are done."""
        interrupts.check()
        now = monotonic()
        with self._lock:
            if stage != self._stage:
                self._end_stage()
                self._stage, self._began, self._drawn = stage, now, 0.0
            self._done, self._total = done, total
            if now - self._drawn >= REDRAW_SECONDS or done >= total > 0:
                self._draw()

    def __enter__(self) -> Self:
        if self._live:
            self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        with self._lock:
            self._end_stage()

    def _tick(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            with self._lock:
                self._draw()

    def _line(self) -> str:
        name = self._stage or ""
        label = self._labels.get(name, self._other.format(name))
        return bar_line(label, self._done, self._total, monotonic() - self._began)

    def _draw(self) -> None:
        if self._live and self._stage is not None:
            self._drawn = monotonic()
            self._stream.write(f"{CLEAR_LINE}{self._line()}")
            self._stream.flush()

    def _end_stage(self) -> None:
        if self._stage is None:
            return
        if self._live:
            self._draw()
            self._stream.write("\n" if self._leave else CLEAR_LINE)
        elif self._leave:
            self._stream.write(f"{self._line()}\n")
        self._stream.flush()
        self._stage = None

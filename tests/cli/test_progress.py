"""Progress bars, on a stream that is a terminal and on one that is not."""

from __future__ import annotations

import io
import time

import pytest

from edgewise.cli import progress
from edgewise.cli.progress import StageBars, bar_line


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("done", "total", "filled", "percent"),
    [
        (0, 10, 0, "  0%"),
        (5, 10, 15, " 50%"),
        (10, 10, 30, "100%"),
        (12, 10, 30, "100%"),
        (1, 3, 10, " 33%"),
        (-1, 10, 0, "  0%"),
        (7, 0, 0, "   ?"),
    ],
)
def test_a_bar_shows_the_share_that_is_done(done, total, filled, percent):
    line = bar_line("fetch", done, total, 1.5)
    assert line == f"fetch      [{'#' * filled}{'.' * (30 - filled)}] {percent}  1.50 s"


def test_without_a_terminal_each_stage_is_one_line():
    stream = io.StringIO()
    with StageBars({"a": "first"}, other="fetch {}", stream=stream) as bars:
        for done in range(4):
            bars("a", done, 3)
        bars("model.gguf", 1, 2)
    lines = stream.getvalue().splitlines()
    assert [line.split("[")[0].strip() for line in lines] == ["first", "fetch model.gguf"]
    assert "100%" in lines[0]
    assert "50%" in lines[1]


def test_nothing_done_leaves_nothing():
    stream = io.StringIO()
    with StageBars(stream=stream):
        pass
    assert stream.getvalue() == ""


def test_at_a_terminal_the_line_is_drawn_again(monkeypatch):
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    stream = Screen()
    with StageBars(stream=stream) as bars:
        for done in range(3):
            bars("a", done, 2)
    assert stream.getvalue().count("\r\x1b[Ka ") >= 3
    assert stream.getvalue().endswith("\n")


def test_the_time_goes_on_while_no_step_ends(monkeypatch):
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.01)
    stream = Screen()
    with StageBars(stream=stream) as bars:
        bars("a", 0, 2)
        give_up = time.monotonic() + 30
        while stream.getvalue().count("\r") < 5 and time.monotonic() < give_up:
            time.sleep(0.01)
    assert stream.getvalue().count("\r") >= 5


def test_many_quick_steps_are_drawn_seldom():
    stream = Screen()
    with StageBars(stream=stream) as bars:
        for done in range(10_000):
            bars("a", done, 1_000_000)
    assert stream.getvalue().count("\r") < 1000


def test_a_bar_that_is_not_to_stay_is_taken_away():
    for stream in (Screen(), io.StringIO()):
        with StageBars(leave=False, stream=stream) as bars:
            bars("a", 1, 2)
        written = stream.getvalue()
        assert written.endswith("\r\x1b[K") if stream.isatty() else written == ""


def test_an_error_ends_the_line():
    stream = Screen()

    def broken():
        with StageBars(stream=stream) as bars:
            bars("a", 1, 2)
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert stream.getvalue().endswith("\n")

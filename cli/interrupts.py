"""Ctrl-C that is not lost, and SIGTERM that cleans up.

Workflow: `handled` surrounds a command; inside, a signal raises an exception where the program is.
Native libraries drop whatever exception comes while they are imported (a model takes a second to
load, so Ctrl-C does come then). The signal is therefore remembered as well, and `check`, called
wherever the command line itself has the word, raises it again.

Rules: what a shell started with signals ignored (``nohup``, a background job) keeps ignoring them.
Handlers only assign and raise, for they run anywhere.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, ClassVar

TERMINATED = 128 + signal.SIGTERM  # exit code


class Interrupted(KeyboardInterrupt):
    """Ctrl-C.

    A class of our own, for CPython ends a process by the signal itself, after all handlers, once
    it has seen the plain KeyboardInterrupt leave code that a library ran.
    """


class _Pending:
    interrupt: ClassVar[bool] = False


def check() -> None:
    """Raise the Ctrl-C that a library has dropped.

    Raises:
        Interrupted: There was one that nobody has dealt with.
    """
    if _Pending.interrupt:
        raise Interrupted


def pending() -> bool:
    """Tell whether there was a Ctrl-C that nobody has dealt with."""
    return _Pending.interrupt


def forget() -> None:
    """Note that a Ctrl-C has been dealt with."""
    _Pending.interrupt = False


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Turn SIGINT into `Interrupted` and SIGTERM into SystemExit while the block lasts."""
    forget()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: list[tuple[signal.Signals, Any, Any]] = [
        (signal.SIGINT, signal.default_int_handler, _interrupt),
        (signal.SIGTERM, signal.SIG_DFL, _terminate),
    ]
    replaced = []
    for number, usual, ours in handlers:
        if signal.getsignal(number) == usual:
            signal.signal(number, ours)
            replaced.append((number, usual))
    try:
        yield
    finally:
        for number, usual in replaced:
            signal.signal(number, usual)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _Pending.interrupt = True
    raise Interrupted


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)

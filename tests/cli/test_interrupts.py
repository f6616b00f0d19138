"""Signals in this process: what they raise, what is remembered, what is left alone."""

from __future__ import annotations

import contextlib
import io
import signal
import threading

import pytest

from edgewise.cli import console, interrupts
from edgewise.cli.interrupts import Interrupted
from edgewise.cli.progress import StageBars


@pytest.fixture(autouse=True)
def _nothing_pending():
    interrupts.forget()
    yield
    interrupts.forget()


def dropped():
    """Do as a native library that is being imported: lose the exception of a signal."""
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_an_exception_of_our_own_that_is_a_keyboard_interrupt():
    with interrupts.handled(), pytest.raises(KeyboardInterrupt) as raised:
        signal.raise_signal(signal.SIGINT)
    assert type(raised.value) is Interrupted


def test_a_ctrl_c_that_was_dropped_comes_again_at_every_check():
    with interrupts.handled():
        interrupts.check()
        dropped()
        for _ in range(2):
            with pytest.raises(Interrupted):
                interrupts.check()
        interrupts.forget()
        interrupts.check()


def test_waiting_and_progress_are_checks():
    def wait():
        with console.status("Waiting"):
            dropped()

    with interrupts.handled():
        with pytest.raises(Interrupted):
            wait()
        with StageBars(stream=io.StringIO()) as bars, pytest.raises(Interrupted):
            bars("a", 1, 2)


def test_another_exception_is_not_replaced():
    def wait():
        with console.status("Waiting"):
            dropped()
            raise KeyError

    with interrupts.handled(), pytest.raises(KeyError):
        wait()


def test_a_new_command_begins_without_the_last_ones_interrupt():
    with interrupts.handled():
        dropped()
    with interrupts.handled():
        interrupts.check()


def test_term_is_an_exit():
    with interrupts.handled(), pytest.raises(SystemExit) as raised:
        signal.raise_signal(signal.SIGTERM)
    assert raised.value.code == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_handlers_are_put_back_and_ignored_signals_stay_ignored(number):
    before = signal.getsignal(number)
    with interrupts.handled():
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before
    signal.signal(number, signal.SIG_IGN)
    try:
        with interrupts.handled():
            signal.raise_signal(number)
            interrupts.check()
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_in_another_thread_nothing_is_touched():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with interrupts.handled():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_an_error_that_a_library_made_of_ctrl_c_is_ctrl_c(edgewise, monkeypatch, bundle):
    def convert(*_arguments, **_settings):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("Error calling __set_name__") from error

    monkeypatch.setattr("edgewise.runtime.bundle.open_bundle", convert)
    result = edgewise("inspect", bundle)
    assert (result.code, result.out, result.err) == (130, "", "Interrupted.\n")

"""Ways to run the command line: in this process, in one of its own, and at a terminal."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgewise.cli.main import main
from edgewise.runtime.backends.fake_bundle import write_fake_bundle

WAIT_SECONDS = 60.0
# Makes the terminal its session's own, so that Ctrl-C reaches it as a signal.
AT_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "edgewise.cli", *sys.argv[1:]])
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def mistake(self) -> str:
        """Return the one sentence of a user's mistake, after checking that it is one."""
        assert self.code == 2, self
        assert self.out == ""
        assert "Traceback" not in self.err
        assert self.err.startswith("Error: ")
        assert self.err.count("Error: ") == 1
        assert self.err.endswith("\n")
        return self.err.removeprefix("Error: ").rstrip("\n")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("EDGEWISE_", "_EDGEWISE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def edgewise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Run the command line in this process; ``stdin`` is what is piped into it."""

    def run(*arguments: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the command line as a process of its own; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object, **settings: Any) -> subprocess.Popen[bytes]:
        settings = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | settings
        command = [sys.executable, "-m", "edgewise.cli", *map(str, arguments)]
        started.append(subprocess.Popen(command, **settings))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Terminal:
    """The command line at a pseudo-terminal, with a person's hands and eyes."""

    def __init__(self, arguments: tuple[object, ...]) -> None:
        self._master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", AT_TERMINAL, *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.screen = ""
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, pattern: str) -> str:
        """Return what comes up to the end of a match behind what was seen before."""
        give_up = time.monotonic() + WAIT_SECONDS
        while (match := re.compile(pattern).search(self.screen, self._seen)) is None:
            assert time.monotonic() < give_up, f"{pattern!r} never came: {self.screen!r}"
            if not self._read():
                raise AssertionError(f"{pattern!r} had not come at the end: {self.screen!r}")
        text = self.screen[self._seen : match.end()]
        self._seen = match.end()
        return text

    def wait(self) -> int:
        """Read to the end and return the exit code."""
        while self._read():
            pass
        return self.process.wait(WAIT_SECONDS)

    def press_until_it_ends(self, key: str) -> int:
        """Press a key each second until the process has ended, and return its exit code.

        CPython misses a signal that comes between readline's prompt and its wait for a key, until
        the next one; a person would press again too.
        """
        give_up = time.monotonic() + WAIT_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < give_up, self.screen
            self.type(key)
            while self._read(1.0):
                pass
        return self.process.wait()

    def _read(self, timeout: float = WAIT_SECONDS) -> bool:
        ready, _, _ = select.select([self._master], [], [], timeout)
        if not ready:
            return False
        try:
            content = os.read(self._master, 65536)
        except OSError:  # Linux says so when nobody has the other side open any more
            return False
        self.screen += content.decode("utf-8", "replace")
        return bool(content)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Start the command line at a terminal."""
    started: list[Terminal] = []

    def start(*arguments: object) -> Terminal:
        started.append(Terminal(arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that answers every chat with one sentence; its context holds 256 tokens."""
    return write_fake_bundle(tmp_path_factory.mktemp("bundles") / "fake")


@pytest.fixture(scope="session")
def slow_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that takes 50 ms a token for an answer of some 500 tokens."""
    folder = tmp_path_factory.mktemp("bundles") / "slow"
    return write_fake_bundle(folder, reply="word " * 100, context_length=600, step_seconds=0.05)


@pytest.fixture
def check_shape() -> Callable[[object, object], None]:
    """Hold a JSON value against its form: types, lists of one form, and objects key by key."""

    def check(value: object, shape: object, where: str = "$") -> None:
        if isinstance(shape, dict):
            assert isinstance(value, dict), where
            assert list(value) == list(shape), where
            for key, inner in shape.items():
                check(value[key], inner, f"{where}.{key}")
        elif isinstance(shape, list):
            assert isinstance(value, list), where
            for index, item in enumerate(value):
                check(item, shape[0], f"{where}[{index}]")
        elif isinstance(shape, tuple):
            assert type(value) in shape, f"{where} is {value!r}"
        else:
            assert type(value) is shape, f"{where} is {value!r}"

    return check

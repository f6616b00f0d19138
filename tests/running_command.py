"""The command line as a process that goes on, such as an agent or a server, as tests hold it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from typing import IO, cast

WAIT_SECONDS = 60.0


class RunningCommand:
    """A process that has begun, and what it has written to stderr."""

    def __init__(self, process: subprocess.Popen[bytes], begun: str) -> None:
        """Wait until the process has written a line with the text ``begun``."""
        self.process = process
        self.lines: list[str] = []
        self._stderr = cast("IO[bytes]", process.stderr)
        for line in iter(self._stderr.readline, b""):
            self.lines.append(line.decode())
            if begun in self.lines[-1]:
                break
        else:
            raise AssertionError("".join(self.lines))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line_with(self, text: str) -> str:
        return next(line for line in self.lines if text in line)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Return the exit code, after checking that no fault of ours was told."""
        code = self.process.wait(WAIT_SECONDS)
        self._reader.join(10)
        assert not any("Traceback" in line for line in self.lines), "".join(self.lines)
        return code

    def _read(self) -> None:
        with contextlib.suppress(ValueError):  # closed by communicate()
            self.lines += [line.decode() for line in iter(self._stderr.readline, b"")]

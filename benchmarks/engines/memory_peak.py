"""The peaks of a process's memory, watched from a thread."""

from __future__ import annotations

import threading
from pathlib import Path

POLL_SECONDS = 0.005
MEBIBYTE = 1 << 20


class MemoryPeak:
    """Watches a process's resident and anonymous memory; a context manager."""

    def __init__(self, process: int | None = None) -> None:
        """Watch this process, or another by its id."""
        self._status = Path(f"/proc/{process or 'self'}/status")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.anonymous_bytes = 0
        self.peak_bytes = 0

    def __enter__(self) -> MemoryPeak:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look a last time."""
        self._ended.set()
        self._thread.join()

    def figures(self) -> dict[str, float]:
        """Return the peaks in MiB."""
        return {
            "peak_rss_mib": self.peak_bytes / MEBIBYTE,
            "anonymous_rss_mib": self.anonymous_bytes / MEBIBYTE,
        }

    def _watch(self) -> None:
        while True:
            last = self._ended.wait(POLL_SECONDS)
            try:
                lines = self._status.read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                return
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            if "RssAnon" in fields:  # a process that has ended has none
                anonymous, peak = (1024 * int(fields[f].split()[0]) for f in ("RssAnon", "VmHWM"))
                self.anonymous_bytes = max(self.anonymous_bytes, anonymous)
                self.peak_bytes = max(self.peak_bytes, peak)
            if last:
                return

"""Ending an answer at a stop text that may be spread over several tokens.

Workflow: `push` each new text; it returns what is safe to show and whether a stop text is complete.
`finish` returns what was held back when the answer ends otherwise.

Rules: the stop text itself is never shown. Text is held back only while it could begin one. The
result does not depend on how the text was cut: the stop text that is complete first ends the
answer, and of several that end at the same character the longest is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Watches one answer for its stop texts."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Begin an answer that any of ``stops`` ends; they are not empty."""
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next text.

        Returns:
            The text to show, and whether the answer ends here.
        """
        if not self._stops:
            return text, False
        window = self._held + text
        found = [
            (start + len(stop), start) for stop in self._stops if (start := window.find(stop)) >= 0
        ]
        if found:
            self._held = ""
            return window[: min(found)[1]], True
        held = max(_overlap(window, stop) for stop in self._stops)
        shown = window[: len(window) - held]
        self._held = window[len(shown) :]
        return shown, False

    def finish(self) -> str:
        """Return the text that is held back; the answer has ended without a stop text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest proper beginning of ``stop`` that ``text`` ends with."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)

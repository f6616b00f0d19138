"""Chunks into text: in order, each once, and whole at the end whatever was lost on the way."""

from __future__ import annotations

from edgewise.device.errors import DeviceError
from edgewise.device.reply_messages import Chunk, Final


class Assembly:
    """The text of one answer as far as it is known without a gap."""

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[int, str] = {}
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """What has been given out."""
        return "".join(self._parts)

    def add(self, chunk: Chunk) -> str:
        """Take a chunk; return the text that is now complete up to the next gap."""
        if chunk.seq >= self._next:
            self._waiting[chunk.seq] = chunk.text
        ready = []
        while self._next in self._waiting:
            ready.append(self._waiting.pop(self._next))
            self._next += 1
        self._parts += ready
        return "".join(ready)

    def finish(self, final: Final) -> str:
        """Take the final; return what of the text has not been given out.

        Raises:
            DeviceError: If the final's text does not continue what has been given out.
        """
        text = self.text
        if not final.text.startswith(text):
            raise DeviceError(
                "The agent's final text does not continue its chunks; "
                "two agents of one name may have answered."
            )
        rest = final.text[len(text) :]
        self._parts.append(rest)
        return rest

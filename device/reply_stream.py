"""The answer to one request on its way out: chunks, then exactly one end.

Several threads may want to end an answer (the worker that has finished, a cancel, the deadline, the
agent's stop): the first wins, what comes later is void. Workflow: ``add`` for each piece of text,
``settle`` once. Rules: the first text goes out at once, later ones are gathered for
``interval_seconds``; whatever is still held goes out before the end, so that the chunks put
together are the whole text.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edgewise.device.reply_messages import Chunk, End


class ReplyStream:
    """See the module's docstring; every method may be called by any thread."""

    def __init__(
        self,
        request_id: str,
        *,
        streamed: bool,
        send_chunk: Callable[[Chunk], object],
        send_end: Callable[[End], object],
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin an answer.

        Args:
            request_id: The request's id.
            streamed: Whether chunks are wanted.
            send_chunk: Sends a chunk; must be quick.
            send_end: Records and sends the end; must be quick.
            interval_seconds: The least time between two chunks.
            clock: In seconds.
        """
        self._request_id = request_id
        self._streamed = streamed
        self._send_chunk = send_chunk
        self._send_end = send_end
        self._interval = interval_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._texts: list[str] = []
        self._held: list[str] = []
        self._sent = 0
        self._last_sent = float("-inf")
        self._settled = threading.Event()

    @property
    def settled(self) -> bool:
        """Whether the answer has ended; whoever generates for it may stop."""
        return self._settled.is_set()

    def add(self, text: str) -> None:
        """Add text to the answer; void after its end."""
        # Half a surrogate pair cannot be sent; a model's detokenizer makes none, others might.
        text = text.encode("utf-8", "replace").decode("utf-8")
        if not text:
            return
        with self._lock:
            if self._settled.is_set():
                return
            self._texts.append(text)
            if self._streamed:
                self._held.append(text)
                if self._clock() - self._last_sent >= self._interval:
                    self._flush()

    def settle(self, make: Callable[[str, int], End]) -> bool:
        """End the answer, unless it has ended.

        Args:
            make: Makes the end from the whole text and the number of chunks.

        Returns:
            Whether this call ended it.
        """
        with self._lock:
            if self._settled.is_set():
                return False
            self._flush()
            self._settled.set()
            self._send_end(make("".join(self._texts), self._sent))
            return True

    def _flush(self) -> None:
        if self._held:
            chunk = Chunk(self._request_id, self._sent, "".join(self._held))
            self._held.clear()
            self._sent += 1
            self._last_sent = self._clock()
            self._send_chunk(chunk)

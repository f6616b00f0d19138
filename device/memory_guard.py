"""Refuses requests while the device is short of memory, before anything is begun.

A board without memory left does not fail in one request: the kernel ends the whole agent. Rules:
the system is asked at most every ``READ_SECONDS``, for asking takes longer than taking a request
in; where it does not tell, nothing is refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from edgewise.device.reply_messages import ErrorCode, Failure
from edgewise.firmware_profiles.memory_left import memory_left

logger = logging.getLogger(__name__)

READ_SECONDS = 0.25
MEBIBYTE = 1024 * 1024


class MemoryGuard:
    """See the module's docstring; used by the one thread that takes requests in."""

    def __init__(
        self,
        reserve_bytes: int,
        *,
        left: Callable[[], int | None] = memory_left,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to watch.

        Args:
            reserve_bytes: What must be left for a request to be taken; 0: nothing is refused.
            left: Gives the bytes that are left; None where nobody knows.
            clock: In seconds.
        """
        self._reserve = reserve_bytes
        self._read_left = left
        self._clock = clock
        self._read_at = float("-inf")
        self._left: int | None = None

    def shortage(self) -> str | None:
        """Say why nothing can be taken now; None: it can."""
        if self._reserve == 0:
            return None
        now = self._clock()
        if now - self._read_at >= READ_SECONDS:
            self._left, self._read_at = self._read_left(), now
        if self._left is None or self._left >= self._reserve:
            return None
        logger.warning("Refused a request: %d bytes of memory are left", self._left)
        return (
            f"The device has {self._left // MEBIBYTE} MiB of memory left and keeps "
            f"{self._reserve // MEBIBYTE} MiB free; try again later."
        )

    def refusal(self, request_id: str) -> Failure | None:
        """Answer a request of MQTT that can not be taken; None: it can."""
        sentence = self.shortage()
        return None if sentence is None else Failure(request_id, ErrorCode.NO_MEMORY, sentence)

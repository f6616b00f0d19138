"""The numbers an HTTP server works by, each with its unit; contradictions are refused."""

from __future__ import annotations

from dataclasses import dataclass

from edgewise.device.setting_limits import refuse_outside


@dataclass(frozen=True)
class ServerSettings:
    """Limits and intervals.

    Attributes:
        slots: How many answers are generated at once; the model must have been loaded with as many.
        queue_size: How many more may wait; one more is told to come again later.
        max_body_bytes: The largest request taken.
        body_seconds: How long a request may take to arrive.
        max_messages: Turns of one conversation.
        max_images: In one conversation.
        max_choices: Answers that one request may ask for, prompts times ``n``.
        max_texts: Texts in one request for embeddings.
        max_tokens: The most tokens of an answer, whatever the request says.
        max_connections: Open connections; one more is told that the server is busy.
        memory_reserve_bytes: While the system has less memory left than this, requests are refused
            with 503; 0: never.
        drain_seconds: How long running answers may still take when the server stops.
    """

    slots: int = 1
    queue_size: int = 32
    max_body_bytes: int = 1 << 20
    body_seconds: float = 30.0
    max_messages: int = 256
    max_images: int = 8
    max_choices: int = 16
    max_texts: int = 256
    max_tokens: int = 4096
    max_connections: int = 256
    memory_reserve_bytes: int = 32 << 20
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        accepted = {
            "slots": 1 <= self.slots <= 1024,
            "queue_size": 0 <= self.queue_size <= 10_000,
            "max_body_bytes": 1024 <= self.max_body_bytes <= 1 << 30,
            "body_seconds": 0 < self.body_seconds <= 3600,
            "max_messages": 1 <= self.max_messages <= 100_000,
            "max_images": 1 <= self.max_images <= 1024,
            "max_choices": 1 <= self.max_choices <= 1024,
            "max_texts": 1 <= self.max_texts <= 10_000,
            "max_tokens": 1 <= self.max_tokens <= 2**31 - 1,
            "max_connections": 1 <= self.max_connections <= 100_000,
            "memory_reserve_bytes": 0 <= self.memory_reserve_bytes <= 1 << 50,
            "drain_seconds": 0 <= self.drain_seconds <= 3600,
        }
        refuse_outside(self, accepted, of="the server")

    @property
    def choices(self) -> int:
        """How many answers one request can ever get: what is allowed, and has a place."""
        return min(self.max_choices, self.slots + self.queue_size)

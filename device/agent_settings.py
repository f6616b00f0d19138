"""The numbers an agent works by, each with its unit; contradictions are refused."""

from __future__ import annotations

from dataclasses import dataclass

from edgewise.device.request_messages import MAX_TOKENS
from edgewise.device.setting_limits import refuse_outside


@dataclass(frozen=True)
class AgentSettings:
    """Limits and intervals.

    Attributes:
        queue_size: How many requests may wait; one more is told that the agent is busy.
        default_tokens: The most tokens of an answer whose request does not say.
        max_tokens: The most that a request may ask for.
        max_deadline_seconds: After this nobody waits any more, whatever the request says.
        chunk_interval_seconds: The least time between two chunks of an answer.
        chunk_qos: 0, or 1 where a lost chunk hurts although the final heals it.
        health_interval_seconds: Between two health messages.
        keepalive_seconds: A broker gives us up after one and a half times this without a sign.
        session_expiry_seconds: How long the broker keeps requests for us while we are away.
        will_delay_seconds: How long we may be away before the broker says that we are offline.
        wait_for_broker_seconds: How long ``start`` tries to reach the broker before it gives up;
            None: it does not wait, and tries for ever.
        stop_grace_seconds: How long running answers may still take when the agent stops.
        memory_reserve_bytes: While the system has less memory left than this, requests are refused
            before anything is begun; 0: never.
    """

    queue_size: int = 8
    default_tokens: int = 256
    max_tokens: int = 4096
    max_deadline_seconds: float = 600.0
    chunk_interval_seconds: float = 0.05
    chunk_qos: int = 0
    health_interval_seconds: float = 30.0
    keepalive_seconds: int = 30
    session_expiry_seconds: int = 3600
    will_delay_seconds: int = 5
    wait_for_broker_seconds: float | None = 10.0
    stop_grace_seconds: float = 5.0
    memory_reserve_bytes: int = 32 * 1024 * 1024

    def __post_init__(self) -> None:
        accepted = {
            "queue_size": 1 <= self.queue_size <= 1000,
            "default_tokens": 1 <= self.default_tokens <= self.max_tokens,
            "max_tokens": 1 <= self.max_tokens <= MAX_TOKENS,
            "max_deadline_seconds": 0 < self.max_deadline_seconds <= 86_400,
            "chunk_interval_seconds": 0 <= self.chunk_interval_seconds <= 60,
            "chunk_qos": self.chunk_qos in {0, 1},
            "health_interval_seconds": 0 < self.health_interval_seconds <= 86_400,
            "keepalive_seconds": 1 <= self.keepalive_seconds <= 65_535,
            "session_expiry_seconds": 0 <= self.session_expiry_seconds <= 2_592_000,
            "will_delay_seconds": 0 <= self.will_delay_seconds <= 86_400,
            "stop_grace_seconds": 0 <= self.stop_grace_seconds <= 3600,
            "memory_reserve_bytes": 0 <= self.memory_reserve_bytes <= 2**50,
        }
        refuse_outside(self, accepted, of="the agent")

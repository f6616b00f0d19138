"""Sending replies: which policy, until when, and what if the broker does not take one.

Rules: nothing here waits or raises; a reply that cannot be sent is logged: nobody can be told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgewise.device.errors import DeviceError, MessageTooLargeError
from edgewise.device.outbox import Delivery, Outgoing
from edgewise.device.reply_messages import Accepted, Chunk, Failure, Reply
from edgewise.device.topics import ACCEPTED, FINAL, REFUSAL, UNREADABLE_ID, Policy

logger = logging.getLogger(__name__)

LATE_SECONDS = 30.0  # how long a last reply is still delivered after its request's deadline


@dataclass(frozen=True)
class ReplyAddress:
    """Where the replies to one request go.

    Attributes:
        topic: The reply topic.
        correlation: The request's correlation data, given back as it came.
        deadline: On the monotonic clock, in seconds: when nobody wants the answer any more.
    """

    topic: str
    correlation: bytes | None
    deadline: float


class Replier:
    """See the module's docstring; every method may be called by any thread."""

    def __init__(
        self,
        publish: Callable[[Outgoing], Delivery],
        *,
        chunk_qos: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            publish: Sends a message; raises ``DeviceError`` where it cannot.
            chunk_qos: The QoS of chunks, 0 or 1.
            clock: In seconds.
        """
        self._publish = publish
        self._chunk = Policy(qos=chunk_qos, retain=False)
        self._clock = clock

    def send(self, reply: Reply, address: ReplyAddress) -> bool:
        """Send a reply.

        Returns:
            False if the broker takes no message of that size: something shorter may be sent.
        """
        if isinstance(reply, Accepted):
            return self._send(reply.encode(), ACCEPTED, address)
        if isinstance(reply, Chunk):
            return self._send(reply.encode(), self._chunk, address)
        if isinstance(reply, Failure) and reply.id == UNREADABLE_ID:
            # Whoever sends rubbish by the thousand shall not fill the outbox with our comments.
            return self._send(reply.encode(), Policy(qos=0, retain=False), address)
        return self._send(reply.encode(), REFUSAL, address, extra_seconds=LATE_SECONDS)

    def send_again(self, outcome: bytes, address: ReplyAddress) -> None:
        """Send a last reply that has been sent before."""
        self._send(outcome, FINAL, address, extra_seconds=LATE_SECONDS)

    def _send(
        self, payload: bytes, policy: Policy, address: ReplyAddress, *, extra_seconds: float = 0.0
    ) -> bool:
        expires_at = max(address.deadline + extra_seconds, self._clock() + 1.0)
        try:
            self._publish(
                Outgoing(
                    address.topic,
                    payload,
                    qos=policy.qos,
                    retain=policy.retain,
                    expires_at=expires_at,
                    correlation=address.correlation,
                )
            )
        except MessageTooLargeError as error:
            logger.warning("%s", error)
            return False
        except DeviceError as error:
            logger.warning("A reply to %s was not sent: %s", address.topic, error)
        return True

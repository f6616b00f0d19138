"""The errors of a device's conversation that are the user's to mend.

Rules: a message never carries a password, a file's content or another library's wording alone; it
says what was tried, what came back and what to do.
"""

from __future__ import annotations

from edgewise.common.errors import EdgewiseError


class DeviceError(EdgewiseError):
    """A broker, an agent or a request that does not do what was asked."""


class WireError(DeviceError):
    """A message that does not keep to the protocol.

    Attributes:
        request_id: The id that the message carried, where at least that could be read.
        code: The number that the sender is answered with (see ``reply_messages.ErrorCode``).
    """

    def __init__(self, message: str, *, request_id: str | None = None, code: int = 400) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.code = code


class MessageTooLargeError(DeviceError):
    """A message larger than the broker says it takes."""


class OutboxFullError(DeviceError):
    """More messages wait for the broker than may wait."""


class BrokerUnreachableError(DeviceError):
    """Nothing answers at the broker's address, or not in time; trying again may help."""


class BrokerRefusedError(DeviceError):
    """The broker answers and says no: credentials, certificate, client id or protocol."""


class SessionTakenOverError(DeviceError):
    """Another client has connected with the same client id; trying again would fight it."""


class AgentAbsentError(DeviceError):
    """No agent of that name is on the broker, or it went away while it answered."""


class RequestFailedError(DeviceError):
    """The agent answered that it does not, or did not, fulfil the request.

    Attributes:
        code: The number from the reply (see ``reply_messages.ErrorCode``), or None where the reply
            is a final with the status ``timeout`` or ``interrupted``.
        partial_text: What had been generated until then.
    """

    def __init__(self, message: str, *, code: int | None = None, partial_text: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.partial_text = partial_text


class DeviceBusyError(RequestFailedError):
    """The agent's queue is full; the same request may be sent again after a while.

    Attributes:
        retry_after_ms: How long the agent asks to wait, in milliseconds.
        queue_depth: How many requests wait there.
    """

    def __init__(self, message: str, *, code: int, retry_after_ms: int, queue_depth: int) -> None:
        super().__init__(message, code=code)
        self.retry_after_ms = retry_after_ms
        self.queue_depth = queue_depth

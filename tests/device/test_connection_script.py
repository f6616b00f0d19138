"""The connection against a broker that follows a script, where real ones cannot be made to."""

import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest

from edgewise.device.broker_address import BrokerAddress
from edgewise.device.connection import Connection
from edgewise.device.errors import (
    BrokerRefusedError,
    SessionTakenOverError,
)
from edgewise.device.outbox import Outgoing
from edgewise.device.transport import (
    ConnectOptions,
    LinkLostError,
    Subscription,
)


def ready(connection: Connection) -> Any:
    return connection.wait_until_ready(10, patient=False)


class PaperBroker:
    """A broker that follows a script: for each packet type the bytes to answer with.

    The real brokers here neither refuse subscriptions nor say that a session was taken over. An
    answer that raises an OSError closes the connection.
    """

    def __init__(self, answer: Callable[[int, bytes], bytes]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while header := connection.recv(1):
                length = connection.recv(1)[0]  # no packet of these tests is over 127 bytes
                body = connection.recv(length, socket.MSG_WAITALL) if length else b""
                connection.sendall(self._answer(header[0] >> 4, body))

    def close(self) -> None:
        for opened in (self._listener, *self.connections):
            opened.close()


CONNECT, SUBSCRIBE = 1, 8


def test_it_falls_back_where_the_broker_refuses_5(connect: Any) -> None:
    levels: list[int] = []

    def answer(kind: int, body: bytes) -> bytes:
        if kind != CONNECT:
            return b""
        levels.append(body[6])
        return b"\x20\x02\x00\x01" if body[6] == 5 else b"\x20\x02\x00\x00"

    with closing(PaperBroker(answer)) as broker:
        connection = connect(broker.port)
        assert ready(connection).protocol == "3.1.1"
        connection.close(0.1)
    assert levels == [5, 4]


def test_a_subscription_that_is_refused_is_said(connect: Any) -> None:
    def answer(kind: int, body: bytes) -> bytes:
        if kind == CONNECT:
            return b"\x20\x03\x00\x00\x00"
        if kind == SUBSCRIBE:  # granted, unless it asks for "theirs"
            return b"\x90\x04" + body[:2] + (b"\x00\x87" if b"theirs" in body else b"\x00\x01")
        return b""

    with closing(PaperBroker(answer)) as broker:
        with pytest.raises(BrokerRefusedError, match=r"subscription to theirs.*not authorized"):
            ready(connect(broker.port, "mine", "theirs"))
        optional = Subscription("theirs", required=False)
        connection = Connection(
            BrokerAddress("127.0.0.1", broker.port),
            ConnectOptions("x"),
            subscriptions=[optional, Subscription("mine")],
        )
        with connection:
            ready(connection)
        assert optional.refusal == "not authorized"


def test_a_session_that_was_taken_over_is_said_and_not_taken_back(
    connect: Any, eventually: Any
) -> None:
    with closing(
        PaperBroker(lambda kind, _: b"\x20\x03\x00\x00\x00" if kind == CONNECT else b"")
    ) as broker:
        connection = connect(broker.port, name="twin")
        ready(connection)
        # With a reason string: paho-mqtt 2.1 does not read the reason of a shorter packet.
        broker.connections[0].sendall(b"\xe0\x08\x8e\x06\x1f\x00\x03you")
        eventually(lambda: not connection.alive)
        assert len(broker.connections) == 1
    assert isinstance(connection.stopped, SessionTakenOverError)
    with pytest.raises(SessionTakenOverError, match="twin"):
        connection.publish(Outgoing("a", b"", qos=1))
    with pytest.raises(SessionTakenOverError):
        connection.wait_until_ready(1, patient=True)


def test_a_first_connection_that_breaks_is_made_again(connect: Any) -> None:
    """A broker that took us and dropped us before it had granted the subscription."""
    subscriptions = 0

    def answer(kind: int, body: bytes) -> bytes:
        nonlocal subscriptions
        if kind == CONNECT:
            return b"\x20\x02\x00\x00"
        subscriptions += 1
        if subscriptions < 3:
            raise ConnectionAbortedError
        return b"\x90\x03" + body[:2] + b"\x01"

    with closing(PaperBroker(answer)) as broker:
        connection = connect(broker.port, "a/b", protocol="3.1.1")
        assert ready(connection).protocol == "3.1.1"
        assert connection.losses == 2
        assert len(broker.connections) == 3


def test_a_broker_that_drops_everyone_is_said(connect: Any) -> None:
    def answer(kind: int, _body: bytes) -> bytes:
        if kind == CONNECT:
            return b"\x20\x02\x00\x00"
        raise ConnectionAbortedError

    with closing(PaperBroker(answer)) as broker:
        connection = connect(broker.port, "a/b", protocol="3.1.1")
        with pytest.raises(LinkLostError, match="without a word from the broker"):
            connection.wait_until_ready(0.5, patient=False)
        assert len(broker.connections) > 1


def test_a_broker_that_has_gone_silent_is_given_up(connect: Any, eventually: Any) -> None:
    """A half-open connection: the other end is gone, and no packet says so."""
    with closing(
        PaperBroker(lambda kind, _: b"\x20\x03\x00\x00\x00" if kind == CONNECT else b"")
    ) as broker:
        connection = connect(broker.port, options={"keepalive_seconds": 1})
        ready(connection)
        eventually(lambda: connection.losses >= 1 and connection.ready)
        assert len(broker.connections) >= 2


def test_packets_that_make_no_sense_cost_a_connection_and_no_more(
    connect: Any, eventually: Any
) -> None:
    with closing(
        PaperBroker(lambda kind, _: b"\x20\x03\x00\x00\x00" if kind == CONNECT else b"")
    ) as broker:
        connection = connect(broker.port)
        ready(connection)
        for number, packet in enumerate(
            [
                b"\x30\x02\x00\xff",
                b"\x00\x00",
                b"\x90\x00",
                b"\xe0\x01\xff",
                b"\x30\xff\xff\xff\xff\xff",
            ]
        ):
            eventually(lambda n=number: connection.losses == n and connection.ready)
            broker.connections[-1].sendall(packet)
        eventually(lambda: connection.losses == 5 and connection.ready)
        assert connection.alive

"""The broker inside the process: starts, serves, stops, and says what is missing."""

import itertools
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from edgewise.device.broker_address import BrokerAddress
from edgewise.device.connection import Connection
from edgewise.device.embedded_broker import EmbeddedBroker
from edgewise.device.errors import DeviceError
from edgewise.device.outbox import Outgoing
from edgewise.device.transport import ConnectOptions, Subscription


def test_two_brokers_run_beside_each_other_on_the_loopback_address_only() -> None:
    with EmbeddedBroker() as first, EmbeddedBroker() as second:
        assert first.port != second.port
        for broker in (first, second):
            address = BrokerAddress.parse(broker.url)
            assert address.host == "127.0.0.1"
            with Connection(address, ConnectOptions("x"), protocol=broker.protocol) as connection:
                assert connection.wait_until_ready(10, patient=False).protocol == "3.1.1"
    for broker in (first, second):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", broker.port)) != 0


def test_a_port_of_ones_own_choice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DeviceError, match=f"cannot listen on 127.0.0.1:{port}"):
            EmbeddedBroker(port=port).start()
    with EmbeddedBroker(port=port) as broker:
        assert broker.port == port


def test_without_amqtt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amqtt.broker", None)
    with pytest.raises(DeviceError, match=r"edgewise\[demo\]"):
        EmbeddedBroker().start()


def test_clients_that_come_all_at_once_are_all_taken() -> None:
    """amqtt dropped whom it was just welcoming when another client brought a new filter."""
    numbers = itertools.count()
    with EmbeddedBroker() as broker, ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        address = BrokerAddress.parse(broker.url)

        def come() -> Connection:
            number = next(numbers)
            connection = Connection(
                address,
                ConnectOptions(f"client-{number}"),
                protocol=broker.protocol,
                subscriptions=[Subscription(f"own/{number}"), Subscription("all/+")],
            )
            stack.callback(connection.close, 0.1)
            connection.start()
            connection.wait_until_ready(10, patient=False)
            # What it keeps is what makes the welcome of the next clients wait.
            assert connection.publish(Outgoing(f"all/{number}", b"x", qos=1, retain=True)).wait(10)
            return connection

        connections = [one.result() for one in [pool.submit(come) for _ in range(48)]]
        assert [connection.losses for connection in connections] == [0] * 48

"""The connection against real brokers: protocols, limits, losses, and what each failure says."""

import contextlib
import logging
import socket
import time
from typing import Any

import pytest

from edgewise.device.broker_address import BrokerAddress, TlsFiles
from edgewise.device.connection import Connection
from edgewise.device.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    DeviceError,
    MessageTooLargeError,
)
from edgewise.device.outbox import Outbox, Outgoing
from edgewise.device.transport import (
    ConnectOptions,
    Incoming,
    Will,
)


def ready(connection: Connection) -> Any:
    return connection.wait_until_ready(10, patient=False)


def test_messages_go_and_come(broker: Any, connect: Any, eventually: Any) -> None:
    got: list[Incoming] = []
    connection = connect(broker.port, "a/+", protocol=broker.protocol, on_message=got.append)
    welcome = ready(connection)
    assert welcome.protocol == broker.protocol == connection.protocol
    deliveries = [
        connection.publish(
            Outgoing(
                "a/b",
                f"{number}".encode(),
                qos=1,
                expires_at=time.monotonic() + 100,
                response_topic="c/d",
                correlation=b"\x00\xff",
            )
        )
        for number in range(100)
    ]
    for delivery in deliveries:
        assert delivery.wait(10)
    with contextlib.suppress(AssertionError):  # then the next line tells what is missing
        eventually(lambda: len(got) >= 100)
    assert [message.payload for message in got] == [f"{n}".encode() for n in range(100)]
    first = got[0]
    assert (first.topic, first.qos, first.retain) == ("a/b", 1, False)
    if broker.protocol == "5":
        assert (first.response_topic, first.correlation) == ("c/d", b"\x00\xff")
        assert 98 <= (first.expiry_seconds or 0) <= 100
    else:
        assert (first.response_topic, first.correlation, first.expiry_seconds) == (None, None, None)


def test_it_speaks_5_where_the_broker_does(mosquitto_5: Any, connect: Any) -> None:
    assert ready(connect(mosquitto_5.port)).protocol == "5"


def test_it_falls_back_where_the_broker_only_speaks_3(shared_amqtt: Any, connect: Any) -> None:
    connection = connect(shared_amqtt.port)
    assert ready(connection).protocol == "3.1.1"
    assert connection.protocol == "3.1.1"


def test_the_socket_does_not_wait_for_more(mosquitto_5: Any, connect: Any) -> None:
    from edgewise.device import mqtt

    seen: list[int] = []
    original = mqtt.Link._on_socket_open

    def look(self: Any, client: Any, data: Any, connection: Any) -> None:
        original(self, client, data, connection)
        seen.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mqtt.Link, "_on_socket_open", look)
        ready(connect(mosquitto_5.port))
    assert seen
    assert all(seen)


def test_nothing_listening_is_said_with_host_and_port(connect: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    connection = connect(port)
    with pytest.raises(BrokerUnreachableError, match=rf"127.0.0.1:{port}.*[Ss]tart the broker"):
        ready(connection)
    with pytest.raises(BrokerUnreachableError):
        connection.wait_until_ready(0.3, patient=True)


def test_an_unknown_host_is_said() -> None:
    connection = Connection(BrokerAddress("no.such.host.invalid", 1883), ConnectOptions("x"))
    with connection, pytest.raises(BrokerUnreachableError, match="not known here"):
        ready(connection)


def test_something_that_is_no_broker_is_said(connect: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = connect(
            listener.getsockname()[1],
            protocol="3.1.1",
            options={"connect_timeout_seconds": 0.3},
        )
        with pytest.raises(BrokerUnreachableError, match="Is it a broker"):
            ready(connection)


def test_a_patient_client_waits_for_the_broker(
    new_mosquitto: Any, connect: Any, eventually: Any
) -> None:
    broker = new_mosquitto()
    broker.stop()
    connection = connect(broker.port)
    with pytest.raises(BrokerUnreachableError):
        ready(connection)
    broker.start()
    assert connection.wait_until_ready(10, patient=True)


def login(password: str) -> dict[str, str]:
    return {"user": "u", "password": password}


def test_wrong_login_is_said_and_not_retried_by_who_waits(
    new_mosquitto: Any, connect: Any, tmp_path: Any, need_tool: Any
) -> None:
    import subprocess

    passwords = tmp_path / "passwords"
    subprocess.run([need_tool("mosquitto_passwd"), "-b", "-c", passwords, "u", "right"], check=True)
    broker = new_mosquitto("allow_anonymous false", f"password_file {passwords}")
    for protocol in ("5", "3.1.1"):
        with pytest.raises(BrokerRefusedError, match="refuses the login") as caught:
            connect(broker.port, **login("wrong1"), protocol=protocol).wait_until_ready(
                10, patient=True
            )
        assert "wrong1" not in str(caught.value)
        with pytest.raises(BrokerRefusedError, match="no user name was given"):
            ready(connect(broker.port, protocol=protocol))
        assert ready(connect(broker.port, **login("right"), protocol=protocol))


def test_a_publication_that_is_refused_is_said(
    new_mosquitto: Any, connect: Any, tmp_path: Any
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite mine/#\n")
    broker = new_mosquitto("allow_anonymous true", f"acl_file {rules}")
    connection = connect(broker.port)
    ready(connection)
    assert connection.publish(Outgoing("mine/x", b"", qos=1)).wait(10)
    with pytest.raises(BrokerRefusedError, match=r"theirs/x.*not authorized"):
        connection.publish(Outgoing("theirs/x", b"", qos=1)).wait(10)


def test_a_message_that_is_too_large_never_goes_out(new_mosquitto: Any, connect: Any) -> None:
    broker = new_mosquitto("allow_anonymous true", "max_packet_size 2000")
    connection = connect(broker.port)
    assert ready(connection).maximum_packet_bytes == 2000
    with pytest.raises(MessageTooLargeError, match="2000"):
        connection.publish(Outgoing("a/b", b"x" * 2000, qos=1))
    assert connection.publish(Outgoing("a/b", b"x" * 1800, qos=1)).wait(10)
    assert connection.losses == 0


def test_a_message_that_turns_out_too_large_is_dropped(new_mosquitto: Any, connect: Any) -> None:
    broker = new_mosquitto("allow_anonymous true", "max_packet_size 2000")
    broker.stop()
    connection = connect(broker.port)
    large = connection.publish(Outgoing("a/b", b"x" * 2000, qos=1))
    small = connection.publish(Outgoing("a/b", b"x", qos=1))
    broker.start()
    with pytest.raises(MessageTooLargeError):
        large.wait(10)
    assert small.wait(10)


def test_a_poisonous_message_is_given_up(new_mosquitto: Any, connect: Any) -> None:
    """In MQTT 3.1.1 no limit is announced: the broker hangs up, again and again."""
    broker = new_mosquitto("allow_anonymous true", "max_packet_size 2000")
    connection = connect(broker.port, protocol="3.1.1")
    ready(connection)
    poison = connection.publish(Outgoing("a/b", b"x" * 2000, qos=1))
    after = connection.publish(Outgoing("a/b", b"x", qos=1))
    with pytest.raises(DeviceError, match="lost with"):
        poison.wait(20)
    assert after.wait(10)


def test_no_more_is_in_flight_than_the_broker_allows(new_mosquitto: Any, connect: Any) -> None:
    broker = new_mosquitto("allow_anonymous true", "max_inflight_messages 3")
    connection = connect(broker.port)
    assert ready(connection).in_flight_maximum == 3
    deliveries = [connection.publish(Outgoing("a/b", b"x", qos=1)) for _ in range(200)]
    assert all(delivery.wait(10) for delivery in deliveries)
    assert connection.losses == 0


def test_nobody_listening_is_known_in_5(mosquitto_5: Any, connect: Any) -> None:
    connection = connect(mosquitto_5.port, "heard/#")
    ready(connection)
    unheard = connection.publish(Outgoing("unheard/x", b"x", qos=1))
    heard = connection.publish(Outgoing("heard/x", b"x", qos=1))
    assert unheard.wait(10)
    assert heard.wait(10)
    assert unheard.no_subscribers
    assert not heard.no_subscribers


def test_a_handler_that_raises_does_not_end_the_connection(
    broker: Any, connect: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "edgewise.device.mqtt")
    got: list[bytes] = []

    def handle(message: Incoming) -> None:
        got.append(message.payload)
        if message.payload == b"bad":
            raise ZeroDivisionError

    connection = connect(
        broker.port, f"x/{broker.protocol}", protocol=broker.protocol, on_message=handle
    )
    ready(connection)
    for payload in (b"bad", b"bad", b"good"):
        assert connection.publish(Outgoing(f"x/{broker.protocol}", payload, qos=1)).wait(10)
    eventually(lambda: got == [b"bad", b"bad", b"good"])
    assert connection.faults == 2
    assert connection.losses == 0
    assert connection.alive


@pytest.mark.parametrize("kill", [False, True])
def test_a_broker_restart_loses_no_qos_1_message(
    new_mosquitto: Any, connect: Any, eventually: Any, tmp_path: Any, *, kill: bool
) -> None:
    store = ["persistence true", f"persistence_location {tmp_path}/", "autosave_on_changes true"]
    broker = new_mosquitto("allow_anonymous true", *store, "autosave_interval 1")
    got: list[bytes] = []
    sender = connect(broker.port, name="sender")
    receiver = connect(
        broker.port, "a/b", name="receiver", on_message=lambda message: got.append(message.payload)
    )
    ready(sender)
    ready(receiver)
    numbers = [f"{number}".encode() for number in range(60)]
    for number in numbers[:30]:
        sender.publish(Outgoing("a/b", number, qos=1))
    if kill:  # what mosquitto has acknowledged it saves a moment later: that moment is its own
        eventually(lambda: len(got) == 30)
        time.sleep(0.2)
    broker.stop(kill=kill)
    for number in numbers[30:]:
        sender.publish(Outgoing("a/b", number, qos=1))
    broker.start()
    eventually(lambda: set(got) == set(numbers))
    assert sender.losses == receiver.losses == 1


def test_messages_wait_for_the_broker_and_expire(
    new_mosquitto: Any, connect: Any, eventually: Any
) -> None:
    broker = new_mosquitto()
    got: list[bytes] = []
    connection = connect(broker.port, "a/b", on_message=lambda message: got.append(message.payload))
    ready(connection)
    broker.stop()
    eventually(lambda: not connection.ready)
    dropped = connection.publish(Outgoing("a/b", b"qos 0", qos=0))
    old = connection.publish(Outgoing("a/b", b"old", qos=1, expires_at=time.monotonic() + 0.01))
    kept = connection.publish(Outgoing("a/b", b"kept", qos=1))
    with pytest.raises(DeviceError, match="no connection"):
        dropped.wait(0)
    time.sleep(0.02)
    broker.start()
    assert kept.wait(10)
    with pytest.raises(DeviceError, match="expired"):
        old.wait(10)
    eventually(lambda: got == [b"kept"])


def test_the_outbox_is_bounded_while_the_broker_is_away(connect: Any, new_mosquitto: Any) -> None:
    broker = new_mosquitto()
    broker.stop()
    connection = connect(broker.port, outbox=Outbox(max_messages=5))
    for _ in range(5):
        connection.publish(Outgoing("a", b"", qos=1))
    with pytest.raises(DeviceError, match="5 messages"):
        connection.publish(Outgoing("a", b"", qos=1))


def test_closing_sends_what_waits_and_no_last_will(
    broker: Any, connect: Any, new_probe: Any, eventually: Any
) -> None:
    probe = new_probe(broker)
    topic = f"closing/{broker.protocol}"
    probe.subscribe(f"{topic}/#")
    will = Will(f"{topic}/will", b"gone", retain=False)
    connection = connect(broker.port, protocol=broker.protocol, options={"will": will})
    ready(connection)
    for number in range(50):
        connection.publish(Outgoing(f"{topic}/x", f"{number}".encode(), qos=1))
    connection.close()
    assert not connection.alive
    eventually(lambda: len(probe.messages) == 50)
    marker = connect(broker.port, protocol=broker.protocol, name="marker")
    ready(marker)
    marker.publish(Outgoing(f"{topic}/end", b"", qos=1))
    probe.wait_for(lambda message: message.topic.endswith("/end"))
    assert {message.topic for message in probe.messages} == {f"{topic}/x", f"{topic}/end"}


def test_a_session_is_kept_while_away_and_forgotten_on_wish(
    mosquitto_5: Any, connect: Any, eventually: Any
) -> None:
    got: list[bytes] = []
    options = {"session_expiry_seconds": 60}

    def sleeper() -> Connection:
        return connect(
            mosquitto_5.port,
            "sleep/x",
            name="sleeper",
            options=options,
            on_message=lambda message: got.append(message.payload),
        )

    first = sleeper()
    assert ready(first).session_present is False
    first.close()
    other = connect(mosquitto_5.port, name="other")
    ready(other)
    assert other.publish(Outgoing("sleep/x", b"while away", qos=1)).wait(10)
    second = sleeper()
    assert ready(second).session_present is True
    eventually(lambda: got == [b"while away"])
    second.close(forget_session=True)
    assert ready(sleeper()).session_present is False


def test_unknown_protocols_and_stray_tls_files_are_refused(tmp_path: Any) -> None:
    address = BrokerAddress("127.0.0.1", 1)
    with pytest.raises(DeviceError, match=r"accepted: auto, 5, 3\.1\.1"):
        Connection(address, ConnectOptions("x"), protocol="4")
    with pytest.raises(DeviceError, match="mqtts://"):
        Connection(address, ConnectOptions("x"), tls=TlsFiles(authority=tmp_path / "ca"))


def test_a_connection_that_was_never_started_closes(eventually: Any) -> None:
    Connection(BrokerAddress("127.0.0.1", 1), ConnectOptions("x")).close()

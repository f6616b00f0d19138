"""The outbox: in order, bounded, nothing expired, nothing for ever."""

import pytest

from edgewise.device.errors import DeviceError, OutboxFullError
from edgewise.device.outbox import MAX_ATTEMPTS, Outbox, Outgoing


def message(text: str, **fields: float) -> Outgoing:
    return Outgoing("t", text.encode(), qos=1, **fields)


def taken(outbox: Outbox, now: float = 0.0) -> str | None:
    parcel = outbox.take(now)
    return None if parcel is None else parcel.message.payload.decode()


def test_messages_come_out_in_their_order() -> None:
    outbox = Outbox()
    for text in "abc":
        outbox.put(message(text))
    assert [taken(outbox) for _ in range(4)] == ["a", "b", "c", None]
    assert len(outbox) == 3  # in flight, until they are done


def test_what_was_in_flight_goes_first_again() -> None:
    outbox = Outbox()
    for text in "abcd":
        outbox.put(message(text))
    flight = [parcel for parcel in (outbox.take(0.0), outbox.take(0.0)) if parcel]
    outbox.put_back(flight)
    assert [taken(outbox) for _ in range(4)] == ["a", "b", "c", "d"]


def test_it_is_bounded_in_messages_in_flight_included() -> None:
    outbox = Outbox(max_messages=2)
    outbox.put(message("a"))
    outbox.put(message("b"))
    with pytest.raises(OutboxFullError, match="2 messages"):
        outbox.put(message("c"))
    parcel = outbox.take(0.0)
    assert parcel is not None
    with pytest.raises(OutboxFullError):
        outbox.put(message("c"))
    outbox.done(parcel)
    outbox.put(message("c"))


def test_it_is_bounded_in_bytes() -> None:
    outbox = Outbox(max_bytes=1000)
    outbox.put(message("x" * 700))
    with pytest.raises(OutboxFullError):
        outbox.put(message("x" * 700))
    outbox.put(message("x" * 50))


def test_an_expired_message_is_dropped_and_its_sender_told() -> None:
    outbox = Outbox()
    old = outbox.put(message("old", expires_at=5.0))
    outbox.put(message("new", expires_at=50.0))
    assert taken(outbox, now=5.0) == "new"
    with pytest.raises(DeviceError, match="expired"):
        old.wait(0)
    assert len(outbox) == 1


def test_a_message_that_takes_every_connection_down_is_dropped() -> None:
    outbox = Outbox()
    delivery = outbox.put(message("poison"))
    for _ in range(MAX_ATTEMPTS):
        parcel = outbox.take(0.0)
        assert parcel is not None
        outbox.put_back([parcel])
    assert outbox.take(0.0) is None
    assert len(outbox) == 0
    with pytest.raises(DeviceError, match="lost"):
        delivery.wait(0)


def test_a_delivery_tells_what_became_of_it() -> None:
    outbox = Outbox()
    delivery = outbox.put(message("a"))
    assert delivery.wait(0) is False
    delivery.succeed(no_subscribers=True)
    assert delivery.wait(0) is True
    assert delivery.no_subscribers
    waiting = outbox.put(message("b"))
    outbox.take(0.0)
    outbox.fail_all(DeviceError("closed"))
    with pytest.raises(DeviceError, match="closed"):
        waiting.wait(0)


def test_the_packet_size_is_an_upper_bound() -> None:
    with_properties = Outgoing("ä", b"12345", response_topic="ü/x", correlation=b"0123456789abcdef")
    # fixed header 5, topic 2+2, id 2, property length 4, format 2, expiry 5, content type 3+16,
    # response topic 3+4, correlation 3+16, payload 5
    assert with_properties.packet_bytes >= 5 + 4 + 2 + 4 + 2 + 5 + 19 + 7 + 19 + 5

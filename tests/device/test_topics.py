"""Topic names: built and read back, never with a character that means something to a broker."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.device.errors import DeviceError, WireError
from edgewise.device.topics import (
    DeviceTopics,
    RequestTopic,
    check_name,
    check_root,
    device_of,
    is_request_id,
    reply_filter,
    status_filter,
)

names = st.text("abcZ09._~-@:äß猫", min_size=1, max_size=16)
TOPICS = DeviceTopics("edgewise", "pi")


@settings(deadline=None)
@given(names, names, names, names)
def test_a_request_topic_is_read_back(root: str, device: str, client: str, verb: str) -> None:
    topics = DeviceTopics(root, device)
    topic = topics.request(client, verb)
    assert topic == f"{root}/{device}/req/{client}/{verb}"
    assert topics.parse_request(topic) == RequestTopic(client, verb)
    assert DeviceTopics(root, device + "x").parse_request(topic) is None
    assert device_of(root, topic) == device


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_topic_is_a_request_or_none(topic: str) -> None:
    parsed = TOPICS.parse_request(topic)
    if parsed is not None:
        assert TOPICS.request(parsed.client, parsed.verb) == topic


def test_the_topics_of_a_device() -> None:
    topics = DeviceTopics("site/hall", "pi")
    assert topics.status == "site/hall/pi/status"
    assert topics.info == "site/hall/pi/info"
    assert topics.health == "site/hall/pi/health"
    assert topics.request_filter == "site/hall/pi/req/+/+"
    assert topics.reply("s1", "q") == "site/hall/pi/rsp/s1/q"
    assert reply_filter("site/hall", "s1") == "site/hall/+/rsp/s1/+"
    assert status_filter("site/hall") == "site/hall/+/status"
    assert device_of("site/hall", "site/hall/pi/status") == "pi"
    assert device_of("site/hall", "site/pi/status") is None
    assert device_of("site", "site/pi") is None


@pytest.mark.parametrize(
    "name",
    [
        *("", "a/b", "a+", "#", "$SYS", "a b", " ", "a\tb", "a\x00", "a\n", "\x7f"),
        *("\u200b", "\u2028", "\ud800", "\ufdd0"),
        *("x" * 65, "ß" * 33),
    ],
)
def test_names_that_must_not_be_in_a_topic_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="device name"):
        check_name(name, "device")
    with pytest.raises(DeviceError):
        DeviceTopics("edgewise", name)
    with pytest.raises(DeviceError):
        TOPICS.request(name, "generate")
    assert TOPICS.parse_request(f"edgewise/pi/req/{name}/generate") is None


def test_a_root_has_one_to_four_levels() -> None:
    assert check_root("a/b/c/d") == "a/b/c/d"
    for root in ("", "/a", "a/", "a//b", "a/b/c/d/e", "+", "a/#"):
        with pytest.raises(DeviceError):
            check_root(root)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", True), ("A.b_c:d-9", True), ("x" * 64, True), ("x" * 65, False), ("", False)]
    + [(text, False) for text in ("a/b", "+", "#", "$", "a b", "é", "a\n")],
)
def test_request_ids(text: str, expected: bool) -> None:
    assert is_request_id(text) is expected


def test_the_reply_goes_to_the_sender_and_nowhere_else() -> None:
    own = "edgewise/pi/rsp/s1/q1"
    assert TOPICS.reply_for("s1", "q1", None) == own
    assert TOPICS.reply_for("s1", "q1", own) == own
    assert TOPICS.reply_for("s1", "q1", "edgewise/pi/rsp/s1/all") == "edgewise/pi/rsp/s1/all"


@pytest.mark.parametrize(
    "foreign",
    [
        "edgewise/pi/ota/cmd",
        "edgewise/pi/rsp/s2/q1",
        "edgewise/pi/rsp/s1",
        "edgewise/pi/rsp/s1/",
        "edgewise/pi/rsp/s1/a/b",
        "edgewise/pi/rsp/s1/../s2/q1",
        "edgewise/pi/rsp/s1/+",
        "edgewise/pi/rsp/s1/#",
        "edgewise/other/rsp/s1/q1",
        "$SYS/broker",
        "",
    ],
)
def test_a_foreign_response_topic_is_refused(foreign: str) -> None:
    with pytest.raises(WireError) as caught:
        TOPICS.reply_for("s1", "q1", foreign)
    assert caught.value.code == 403
    assert caught.value.request_id == "q1"

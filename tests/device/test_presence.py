"""Being online: when it is said, and when another agent is given way to."""

import json
from typing import Any

import pytest

from edgewise.device.announcements import Info, Status, parse_status, session_of
from edgewise.device.errors import SessionTakenOverError, WireError
from edgewise.device.presence import MAX_STRIKES, Presence
from edgewise.device.topics import DeviceTopics
from edgewise.device.transport import Incoming

TOPICS = DeviceTopics("edgewise", "pi")


class Stage:
    """A presence and what it says."""

    def __init__(self, look_seconds: float = 3600.0) -> None:
        self.said: list[str] = []
        self.superseded: list[SessionTakenOverError] = []
        self.presence = Presence(
            TOPICS,
            "mine",
            publish=lambda status: self.said.append(status.state),
            announce=lambda: self.said.append("info"),
            on_superseded=self.superseded.append,
            look_seconds=look_seconds,
        )

    def info(self, session: str, *, retain: bool = True) -> None:
        payload = json.dumps({"v": 1, "session": session}).encode()
        self.presence.on_info(Incoming(TOPICS.info, payload, qos=1, retain=retain))

    def status(self, state: str, session: str = "mine", *, retain: bool = False) -> None:
        payload = Status(state, session).encode()
        self.presence.on_status(Incoming(TOPICS.status, payload, qos=1, retain=retain))


def test_the_first_connection_announces_whatever_the_broker_has_kept() -> None:
    stage = Stage()
    stage.info("an earlier run")
    stage.status("offline", "an earlier run", retain=True)
    stage.presence.on_ready()
    assert stage.said == ["online", "info"]
    stage.presence.leave()
    assert stage.said == ["online", "info", "offline"]
    stage.presence.on_ready()
    stage.status("offline")
    assert stage.said == ["online", "info", "offline"]


@pytest.mark.parametrize("early", [True, False])
def test_a_later_connection_announces_once_its_own_info_is_seen(*, early: bool) -> None:
    stage = Stage()
    stage.presence.on_ready()
    stage.presence.on_lost()
    if early:  # the broker may send it before the connection is ready
        stage.info("mine")
    stage.presence.on_ready()
    assert len(stage.said) == (4 if early else 2)
    stage.info("mine")
    assert stage.said == ["online", "info"] * 2
    stage.presence.leave()


def test_without_any_info_it_announces_after_a_while(eventually: Any) -> None:
    stage = Stage(look_seconds=0.01)
    stage.presence.on_ready()
    stage.presence.on_lost()
    stage.presence.on_ready()
    eventually(lambda: stage.said == ["online", "info"] * 2)


def test_another_s_info_makes_it_give_way_only_if_it_is_thrown_out_again_and_again() -> None:
    stage = Stage()
    stage.presence.on_ready()
    for strike in range(1, MAX_STRIKES + 1):
        stage.presence.on_lost()
        stage.presence.on_ready()
        stage.info("another")
        assert len(stage.superseded) == (1 if strike == MAX_STRIKES else 0)
    assert stage.said == ["online", "info"]
    stage.presence.leave()
    assert stage.said == ["online", "info"]  # the other is online


def test_an_old_info_is_overwritten_after_a_while(eventually: Any) -> None:
    stage = Stage(look_seconds=0.01)
    stage.presence.on_ready()
    for times in range(2, 2 + 2 * MAX_STRIKES):
        stage.presence.on_lost()
        stage.info("an earlier run")
        stage.presence.on_ready()
        eventually(lambda n=times: stage.said == ["online", "info"] * n)
    assert stage.superseded == []


def test_a_late_last_will_is_corrected_and_an_echo_is_not() -> None:
    stage = Stage()
    stage.presence.on_ready()
    stage.status("online")
    stage.info("mine", retain=False)
    stage.info("another", retain=False)
    assert stage.said == ["online", "info"]
    stage.status("offline", "an earlier run")
    stage.status("offline", "mine")
    assert stage.said == ["online", "info"] * 3
    stage.presence.on_status(Incoming(TOPICS.status, b"rubbish", qos=1, retain=False))
    stage.presence.on_info(Incoming(TOPICS.info, b"rubbish", qos=1, retain=True))


def test_status_and_info_on_the_wire() -> None:
    status = Status("online", "s1")
    assert json.loads(status.encode()) == {"v": 1, "status": "online", "session": "s1"}
    assert parse_status(status.encode()) == status
    info = Info("pi", "s1", ("generate",), {"model_id": "m"}, {"python": "3"}, {"max_tokens": 1})
    assert session_of(info.encode()) == session_of(status.encode()) == "s1"
    assert session_of(b'{"session":5}') is None
    for wrong in (b"{}", b'{"v":1,"status":"asleep","session":"x"}', b"\xff"):
        with pytest.raises(WireError):
            parse_status(wrong)

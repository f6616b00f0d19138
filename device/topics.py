"""Topic names: how each is built, read and sent.

Every topic is ``{root}/{device}/...``. A request carries its sender's name as a level of its topic,
because that is what a broker's access list checks; the payload is never asked who sent it. The
reply topic is derived from the request topic, so that nobody can make an agent publish elsewhere.

Rules: a name is one level: no ``/ + # $``, no space, no control or other invisible character, at
most ``MAX_NAME_BYTES``. A request id is ASCII letters, digits and ``. _ : -``. What breaks the
rules never reaches a broker.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from edgewise.device.errors import DeviceError, WireError

DEFAULT_ROOT = "edgewise"
MAX_NAME_BYTES = 64  # bytes of UTF-8 in one level
MAX_ROOT_LEVELS = 4  # levels a root may have: a site and a hall before the word itself
MAX_ID_LENGTH = 64  # characters
UNREADABLE_ID = "unreadable"  # the id level of replies to requests whose own id cannot be read

_FORBIDDEN = re.compile(r"[/+#$]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(frozen=True)
class Policy:
    """How a kind of message is sent.

    Attributes:
        qos: MQTT's quality of service: 0 at most once, 1 at least once.
        retain: Whether the broker keeps the last one for later subscribers.
    """

    qos: int
    retain: bool


REQUEST = Policy(qos=1, retain=False)  # {root}/{device}/req/{client}/{verb}
ACCEPTED = Policy(qos=1, retain=False)  # {root}/{device}/rsp/{client}/{id}
CHUNK = Policy(qos=0, retain=False)  # {root}/{device}/rsp/{client}/{id}; the final heals gaps
FINAL = Policy(qos=1, retain=False)  # {root}/{device}/rsp/{client}/{id}
REFUSAL = Policy(qos=1, retain=False)  # {root}/{device}/rsp/{client}/{id}; busy and error
STATUS = Policy(qos=1, retain=True)  # {root}/{device}/status; also the last will
INFO = Policy(qos=1, retain=True)  # {root}/{device}/info
HEALTH = Policy(qos=0, retain=True)  # {root}/{device}/health


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it may be a topic level.

    Args:
        name: The name of a device, a client or a verb.
        what: What it names, for the message: "device", "client", ...

    Raises:
        DeviceError: If it is empty, too long, or holds a character that must not be in a topic.
    """
    rule = (
        f"a {what} name has 1 to {MAX_NAME_BYTES} bytes, without spaces, control characters "
        "and / + # $"
    )
    if not name or _FORBIDDEN.search(name):
        raise DeviceError(f"The {what} name {name[:MAX_NAME_BYTES]!r} cannot be used: {rule}.")
    if any(unicodedata.category(character)[0] in "CZ" for character in name):
        raise DeviceError(f"The {what} name {name[:MAX_NAME_BYTES]!r} cannot be used: {rule}.")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise DeviceError(
            f"The {what} name {name[:16]!r}... has {len(name.encode())} bytes: {rule}."
        )
    return name


def check_root(root: str) -> str:
    """Return ``root`` if it may start every topic: 1 to ``MAX_ROOT_LEVELS`` names joined by ``/``.

    Raises:
        DeviceError: If a level is no name or there are too many.
    """
    levels = root.split("/")
    if len(levels) > MAX_ROOT_LEVELS:
        raise DeviceError(f"The root {root!r} has {len(levels)} levels, at most {MAX_ROOT_LEVELS}.")
    for level in levels:
        check_name(level, "root")
    return root


def is_request_id(text: str) -> bool:
    """Tell whether ``text`` may be a request's id (1 to 64 of ``A-Z a-z 0-9 . _ : -``)."""
    return _REQUEST_ID.fullmatch(text) is not None


@dataclass(frozen=True)
class RequestTopic:
    """A request's topic, taken apart.

    Attributes:
        client: Who sends, as the broker's access list saw it.
        verb: What is asked: ``generate``, ``cancel``, ...
    """

    client: str
    verb: str


@dataclass(frozen=True)
class DeviceTopics:
    """The topics of one device under one root; both are checked when this is made."""

    root: str
    device: str

    def __post_init__(self) -> None:
        check_root(self.root)
        check_name(self.device, "device")

    @property
    def status(self) -> str:
        """Online or offline, retained."""
        return f"{self.root}/{self.device}/status"

    @property
    def info(self) -> str:
        """What the device runs, retained."""
        return f"{self.root}/{self.device}/info"

    @property
    def health(self) -> str:
        """How the device is doing, retained."""
        return f"{self.root}/{self.device}/health"

    @property
    def request_filter(self) -> str:
        """The filter that catches every request to this device."""
        return f"{self.root}/{self.device}/req/+/+"

    def request(self, client: str, verb: str) -> str:
        """Where ``client`` sends a request of kind ``verb``."""
        check_name(client, "client")
        return f"{self.root}/{self.device}/req/{client}/{check_name(verb, 'verb')}"

    def reply(self, client: str, request_id: str) -> str:
        """Where the answers to ``client``'s request go."""
        return f"{self._reply_prefix(client)}{request_id}"

    def _reply_prefix(self, client: str) -> str:
        return f"{self.root}/{self.device}/rsp/{client}/"

    def parse_request(self, topic: str) -> RequestTopic | None:
        """Take a request's topic apart.

        Returns:
            The sender and the verb, or None if this is no request to this device.
        """
        prefix = f"{self.root}/{self.device}/req/"
        if not topic.startswith(prefix):
            return None
        levels = topic[len(prefix) :].split("/")
        if len(levels) != 2:
            return None
        try:
            return RequestTopic(check_name(levels[0], "client"), check_name(levels[1], "verb"))
        except DeviceError:
            return None

    def reply_for(self, client: str, request_id: str, response_topic: str | None) -> str:
        """Choose the reply topic of one request.

        Args:
            client: The sender, from the request's topic.
            request_id: The request's id.
            response_topic: The MQTT 5 property of the request, if it has one.

        Returns:
            ``response_topic`` where it is one level under the sender's own reply prefix; without
            one, the topic derived from the id.

        Raises:
            WireError: If ``response_topic`` is anywhere else. Whoever may publish a request could
                otherwise have the agent publish, with the agent's rights, to any topic.
        """
        if response_topic is None:
            return self.reply(client, request_id)
        prefix = self._reply_prefix(client)
        if response_topic.startswith(prefix) and is_request_id(response_topic[len(prefix) :]):
            return response_topic
        raise WireError(
            f"The response topic must be {prefix}{request_id} (or one level under {prefix}), "
            "or be left out.",
            request_id=request_id,
            code=403,
        )


def reply_filter(root: str, client: str) -> str:
    """The filter that catches every device's replies to ``client``."""
    return f"{check_root(root)}/+/rsp/{check_name(client, 'client')}/+"


def status_filter(root: str) -> str:
    """The filter that catches every device's status."""
    return f"{check_root(root)}/+/status"


def device_of(root: str, topic: str) -> str | None:
    """Return the device a topic under ``root`` belongs to, or None if it lies elsewhere."""
    prefix = f"{root}/"
    if not topic.startswith(prefix):
        return None
    device, separator, rest = topic[len(prefix) :].partition("/")
    return device if device and separator and rest else None

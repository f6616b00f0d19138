"""The device: answers requests over MQTT with a model that runs here, and the client that asks.

``Agent(model, broker=..., device=...).run()`` answers; ``Requester(broker, client=...)`` asks. The
names below are imported when they are first used, so that whoever needs one loads only that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgewise.device.agent import Agent
    from edgewise.device.agent_settings import AgentSettings
    from edgewise.device.answer_stream import AnswerStream
    from edgewise.device.broker_address import BrokerAddress, TlsFiles
    from edgewise.device.embedded_broker import EmbeddedBroker
    from edgewise.device.errors import (
        AgentAbsentError,
        BrokerRefusedError,
        BrokerUnreachableError,
        DeviceBusyError,
        DeviceError,
        RequestFailedError,
    )
    from edgewise.device.reply_messages import Final, Usage
    from edgewise.device.requester import Requester
    from edgewise.device.text_generator import TextGenerator

__all__ = [
    "Agent",
    "AgentAbsentError",
    "AgentSettings",
    "AnswerStream",
    "BrokerAddress",
    "BrokerRefusedError",
    "BrokerUnreachableError",
    "DeviceBusyError",
    "DeviceError",
    "EmbeddedBroker",
    "Final",
    "RequestFailedError",
    "Requester",
    "TextGenerator",
    "TlsFiles",
    "Usage",
]

_MODULES = {
    "agent": ("Agent",),
    "agent_settings": ("AgentSettings",),
    "answer_stream": ("AnswerStream",),
    "broker_address": ("BrokerAddress", "TlsFiles"),
    "embedded_broker": ("EmbeddedBroker",),
    "errors": (
        "AgentAbsentError",
        "BrokerRefusedError",
        "BrokerUnreachableError",
        "DeviceBusyError",
        "DeviceError",
        "RequestFailedError",
    ),
    "reply_messages": ("Final", "Usage"),
    "requester": ("Requester",),
    "text_generator": ("TextGenerator",),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The task of extraction: reports of machines, the JSON that is wanted of them, and what is valid.

A prompt has about 300 tokens of SmolLM2's vocabulary. The schema bounds every text and number, so
that an answer by it ends. Validity is judged here by hand, by the schema's own bounds, so that no
engine's reading of a schema judges itself.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

MAX_TOKENS = 200
MAX_NAME_LENGTH = 24  # characters
PLACES = ("north hall", "south hall", "roof", "cellar")
STATES = ("normal", "warning", "failure")
BOUNDS = {
    "temperature_celsius": (-40, 150),
    "pressure_kilopascal": (0, 2000),
    "operating_hours": (0, 99_999),
}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "device_name": {"type": "string", "maxLength": MAX_NAME_LENGTH},
        "place": {"enum": list(PLACES)},
        **{
            name: {"type": "integer", "minimum": least, "maximum": most}
            for name, (least, most) in BOUNDS.items()
        },
        "machine_state": {"enum": list(STATES)},
        "needs_maintenance": {"type": "boolean"},
    },
    "required": [
        "device_name",
        "place",
        *BOUNDS,
        "machine_state",
        "needs_maintenance",
    ],
    "additionalProperties": False,
}
EVENTS = (
    "the fan was started by the control room and reached its speed",
    "a valve was opened by hand and closed again after the check",
    "the filter was cleaned and the old cartridge was kept",
    "the operator heard a noise at the coupling and wrote it down",
    "the controller restarted after the power came back",
    "the sensor on the outlet was calibrated against the reference",
    "the gearbox was filled up with oil and the level was noted",
    "a lamp of the cabinet was out and has been replaced since",
)


def prompt(number: int) -> str:
    """Return a report with the question behind it; each number gives another one."""
    chance = random.Random(number)  # noqa: S311  # repeatable, and no secret
    device = f"{chance.choice(['pump', 'mixer', 'dryer'])}-{chance.randint(10, 99)}"
    lines = [
        f"{chance.randint(6, 18):02}:{chance.randint(0, 59):02} {event}."
        for event in chance.sample(EVENTS, 7)
    ]
    beginning = (
        "The following report was sent by a machine of our plant.\n"
        f"Device {device} stands in the {chance.choice(PLACES)} and has run for"
        f" {chance.randint(100, 9999)} hours."
    )
    reading = (
        f"At the last reading the bearing had {chance.randint(30, 110)} degrees Celsius and the"
        f" line had a pressure of {chance.randint(90, 900)} kPa. The shift leader judges its"
        f" state as {chance.choice(STATES)}. Nobody was hurt and the line was not stopped. The next"
        " shift was told by telephone and has read this report before it began its work."
    )
    question = (
        "Write what the report says as one JSON object with the keys device_name, place,"
        " temperature_celsius, pressure_kilopascal, operating_hours, machine_state (normal,"
        " warning or failure) and needs_maintenance (true or false). Write nothing else.\nJSON:"
    )
    return "\n".join([beginning, *lines, reading, question])


def is_valid(answer: str) -> bool:
    """Return whether an answer is JSON that the schema accepts."""
    try:
        value = json.loads(answer)
    except ValueError:
        return False
    if not isinstance(value, dict) or value.keys() != set(SCHEMA["required"]):
        return False
    name = value["device_name"]
    return (
        isinstance(name, str)
        and len(name) <= MAX_NAME_LENGTH
        and value["place"] in PLACES
        and value["machine_state"] in STATES
        and isinstance(value["needs_maintenance"], bool)
        and all(_is_within(value[key], *bounds) for key, bounds in BOUNDS.items())
    )


def _is_within(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

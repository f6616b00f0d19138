"""The fields of a request that say how to sample: OpenAI's, and what the runtime has beyond them.

Rules: those that are no matter of OpenAI's are read as everywhere. OpenAI's seeds may be negative,
and a text may stand without a list.
"""

from __future__ import annotations

from typing import Any

from edgewise.device.http.request_fields import RequestFields
from edgewise.device.sampling_fields import take_sampling as take_common_sampling
from edgewise.runtime.options import SEED_MAX, STOP_MAX_COUNT


def take_sampling(fields: RequestFields) -> dict[str, Any]:
    """Take what says how to sample, as `GenerationOptions` names it.

    Raises:
        FieldError: A value is not of its type, or outside its limits.
    """
    given = take_common_sampling(fields)
    seed = fields.optional_integer("seed", -(2**63), SEED_MAX)
    if seed is not None:
        given["seed"] = seed % (SEED_MAX + 1)
    for option, name in {"stop": "stop", "dry_breakers": "dry_sequence_breakers"}.items():
        texts = _texts(fields, name)
        if texts is not None:
            given[option] = texts
    return given


def _texts(fields: RequestFields, name: str) -> tuple[str, ...] | None:
    given = fields.take(name)
    if given is None:
        return None
    texts = [given] if isinstance(given, str) else given
    if (
        not isinstance(texts, list)
        or len(texts) > STOP_MAX_COUNT
        or not all(isinstance(text, str) and text for text in texts)
    ):
        raise fields.fault(
            f"The field {name!r} must be a string, or a list of up to {STOP_MAX_COUNT} strings, "
            "none of them empty."
        )
    return tuple(texts)

"""The fields of a request that say how to sample: OpenAI's, and what the runtime has beyond them.

Rules: limits are the runtime's own. A field that is left out is left out of what is returned, so
that it is as `GenerationOptions` and the bundle have it.
"""

from __future__ import annotations

from typing import Any

from edgewise.device.http.request_fields import RequestFields
from edgewise.runtime.options import (
    DRY_BASE_MAX,
    DRY_MULTIPLIER_MAX,
    LOGIT_BIAS_MAX,
    LOGIT_BIAS_MAX_COUNT,
    OCCURRENCE_PENALTY_MAX,
    REPETITION_PENALTY_MAX,
    SEED_MAX,
    STOP_MAX_COUNT,
    TEMPERATURE_MAX,
)

TOP_K_MAX = 1_000_000
DRY_LENGTH_MAX = 1_000_000  # tokens
_NUMBERS = {
    "temperature": (0.0, TEMPERATURE_MAX),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repetition_penalty": (0.0, REPETITION_PENALTY_MAX),
    "frequency_penalty": (-OCCURRENCE_PENALTY_MAX, OCCURRENCE_PENALTY_MAX),
    "presence_penalty": (-OCCURRENCE_PENALTY_MAX, OCCURRENCE_PENALTY_MAX),
    "dry_multiplier": (0.0, DRY_MULTIPLIER_MAX),
    "dry_base": (1.0, DRY_BASE_MAX),
}


def take_sampling(fields: RequestFields) -> dict[str, Any]:
    """Take what says how to sample, as `GenerationOptions` names it.

    Raises:
        FieldError: A value is not of its type, or outside its limits.
    """
    given: dict[str, Any] = {
        name: fields.optional_number(name, low, high) for name, (low, high) in _NUMBERS.items()
    }
    given["top_k"] = fields.optional_integer("top_k", 0, TOP_K_MAX)
    given["dry_allowed_length"] = fields.optional_integer("dry_allowed_length", 1, DRY_LENGTH_MAX)
    given["logit_bias"] = _logit_bias(fields)
    seed = fields.optional_integer("seed", -(2**63), SEED_MAX)
    given["seed"] = None if seed is None else seed % (SEED_MAX + 1)
    given["stop"] = _texts(fields, "stop")
    given["dry_breakers"] = _texts(fields, "dry_sequence_breakers")
    return {name: value for name, value in given.items() if value is not None}


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


def _logit_bias(fields: RequestFields) -> dict[int, float] | None:
    given = fields.take("logit_bias")
    if given is None:
        return None
    fits = (
        isinstance(given, dict)
        and len(given) <= LOGIT_BIAS_MAX_COUNT
        and all(
            token.isascii()
            and token.isdecimal()
            and isinstance(bias, int | float)
            and not isinstance(bias, bool)
            and -LOGIT_BIAS_MAX <= bias <= LOGIT_BIAS_MAX
            for token, bias in given.items()
        )
    )
    if not fits:
        raise fields.fault(
            f"The field 'logit_bias' must be an object of up to {LOGIT_BIAS_MAX_COUNT} token ids, "
            f"each with a number from {-LOGIT_BIAS_MAX:g} to {LOGIT_BIAS_MAX:g}, such as "
            '{"42": -1.5}.'
        )
    return {int(token): float(bias) for token, bias in given.items()}

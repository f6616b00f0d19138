"""The fields of a request that say how to sample, which every protocol has by the same names.

Rules: limits are the runtime's own. A field that is left out is left out of what is returned, so
that it is as the request, `GenerationOptions` and the bundle have it. What protocols write each in
a way of their own (a seed, lists of texts) is read by theirs.
"""

from __future__ import annotations

import re
from typing import Any

from edgewise.device.fields import Fields
from edgewise.runtime.options import (
    DRY_ALLOWED_LENGTH_MAX,
    DRY_BASE_MAX,
    DRY_MULTIPLIER_MAX,
    LOGIT_BIAS_MAX,
    LOGIT_BIAS_MAX_COUNT,
    OCCURRENCE_PENALTY_MAX,
    REPETITION_PENALTY_MAX,
    TEMPERATURE_MAX,
)

TOP_K_MAX = 1_000_000  # tokens
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
_TOKEN = re.compile("0|[1-9][0-9]{0,8}")  # an id; one way to write each, so that none comes twice


def take_sampling(fields: Fields) -> dict[str, Any]:
    """Take what says how to sample, as `GenerationOptions` names it.

    Raises:
        WireError: A value is not of its type, or outside its limits; the error is the one that
            these fields make.
    """
    given: dict[str, Any] = {
        name: fields.optional_number(name, low, high) for name, (low, high) in _NUMBERS.items()
    }
    given["top_k"] = fields.optional_integer("top_k", 0, TOP_K_MAX)
    given["dry_allowed_length"] = fields.optional_integer(
        "dry_allowed_length", 1, DRY_ALLOWED_LENGTH_MAX
    )
    given["logit_bias"] = _logit_bias(fields)
    return {name: value for name, value in given.items() if value is not None}


def _logit_bias(fields: Fields) -> dict[int, float] | None:
    given = fields.take("logit_bias")
    if given is None:
        return None
    fits = (
        isinstance(given, dict)
        and len(given) <= LOGIT_BIAS_MAX_COUNT
        and all(_TOKEN.fullmatch(token) and _is_bias(bias) for token, bias in given.items())
    )
    if not fits:
        raise fields.fault(
            f"The field 'logit_bias' must be an object of up to {LOGIT_BIAS_MAX_COUNT} token ids, "
            f"each with a number from {-LOGIT_BIAS_MAX:g} to {LOGIT_BIAS_MAX:g}, such as "
            '{"42": -1.5}.'
        )
    return {int(token): float(bias) for token, bias in given.items()}


def _is_bias(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and -LOGIT_BIAS_MAX <= value <= LOGIT_BIAS_MAX

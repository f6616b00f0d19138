"""What an answer says of each of its tokens: how likely the model held it, and which others.

Rules: log-probabilities are natural logarithms of the model's own distribution, with six decimals.
A token may be half a character; its text then has U+FFFD, as what an unknown token adds has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from edgewise.device.fields import Fields
from edgewise.runtime.generation import TokenLogProbability
from edgewise.runtime.options import LOGPROBS_MAX, TOKEN_ID_MAX

MAX_TOLD = 65_536  # tokens of one answer
MAX_TOKEN_TEXT = 1024  # characters
LEAST_LOGPROB = -1e30
DECIMALS = 6


@dataclass(frozen=True)
class TokenChance:
    """A token, as text too, and its log-probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class ToldToken(TokenChance):
    """A token of an answer, and the likeliest ones of its step, the likeliest first."""

    likeliest: tuple[TokenChance, ...] = ()


def told_tokens(
    found: Iterable[TokenLogProbability], bytes_of: Callable[[int], bytes]
) -> tuple[ToldToken, ...]:
    """Make what travels of what a model told.

    Args:
        found: Of an answer.
        bytes_of: Gives the bytes that a token adds to a text.
    """

    def chance(token: int, value: float) -> TokenChance:
        text = bytes_of(token).decode(errors="replace")[:MAX_TOKEN_TEXT]
        return TokenChance(token, text, round(max(value, LEAST_LOGPROB), DECIMALS))

    return tuple(
        ToldToken(
            **vars(chance(one.token_id, one.log_probability)),
            likeliest=tuple(chance(token, value) for token, value in one.likeliest),
        )
        for one in found
    )


def encode_told(tokens: Iterable[ToldToken]) -> list[dict[str, Any]] | None:
    """Return the field ``logprobs``; None where nothing is told."""
    written = [
        {**vars(token), "likeliest": [vars(one) for one in token.likeliest]} for token in tokens
    ]
    return written or None


def parse_told(fields: Fields) -> tuple[ToldToken, ...]:
    """Take the field ``logprobs``.

    Raises:
        WireError: It breaks the protocol.
    """
    tokens = []
    for item in fields.items("logprobs", max_length=MAX_TOLD):
        token = fields.nested(item, "logprobs")
        chance = _chance(token)
        likeliest = []
        for other in token.items("likeliest", max_length=LOGPROBS_MAX, may_be_empty=True):
            one = token.nested(other, "likeliest")
            likeliest.append(_chance(one))
            one.nothing_else()
        token.nothing_else()
        tokens.append(ToldToken(**vars(chance), likeliest=tuple(likeliest)))
    return tuple(tokens)


def _chance(fields: Fields) -> TokenChance:
    return TokenChance(
        fields.integer("token_id", 0, TOKEN_ID_MAX),
        fields.text("text", max_length=MAX_TOKEN_TEXT),
        fields.number("logprob", LEAST_LOGPROB, 0),
    )

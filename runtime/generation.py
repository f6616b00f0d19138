"""What a generation gives: pieces while it runs, the whole when it has ended, and its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from edgewise.common.process_memory import peak_rss_bytes

FinishReason = Literal["stop", "length"]  # an end token or stop text; max_tokens or a full context


@dataclass(frozen=True)
class Statistics:
    """The figures of one generation. What the consumer does between pieces takes no time here."""

    prompt_tokens: int
    generated_tokens: int  # the end token counts: it was computed
    time_to_first_token_seconds: float  # encoding, prompt and first sample; not waiting for a turn
    prefill_tokens_per_second: float  # computed prompt tokens by the time until the first token
    decode_tokens_per_second: float  # tokens after the first by their time; 0 when there are none
    peak_rss_bytes: int  # of the process, until now
    reused_tokens: int = 0  # of the prompt, whose keys and values an earlier request had computed

    @classmethod
    def measured(
        cls,
        prompt_tokens: int,
        generated_tokens: int,
        *,
        first_seconds: float,
        seconds: float,
        reused_tokens: int = 0,
    ) -> Self:
        """Make the figures of an answer that has ended.

        Args:
            prompt_tokens: The prompt's.
            generated_tokens: The answer's.
            first_seconds: Until its first token.
            seconds: In all.
            reused_tokens: Of the prompt, those that were not computed.
        """
        return cls(
            prompt_tokens=prompt_tokens,
            generated_tokens=generated_tokens,
            time_to_first_token_seconds=first_seconds,
            prefill_tokens_per_second=_rate(prompt_tokens - reused_tokens, first_seconds),
            decode_tokens_per_second=_rate(generated_tokens - 1, seconds - first_seconds),
            peak_rss_bytes=peak_rss_bytes(),
            reused_tokens=reused_tokens,
        )


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if tokens > 0 and seconds > 0 else 0.0


@dataclass(frozen=True)
class TokenLogProbability:
    """How likely the model held a token of an answer; see log_probabilities.py."""

    token_id: int
    log_probability: float  # natural logarithm
    likeliest: tuple[tuple[int, float], ...]  # ids and log-probabilities, the likeliest first


@dataclass(frozen=True)
class Piece:
    """The next part of an answer.

    There is one piece for each chunk of the prompt (no text, no ids) and one for each token, so
    that a consumer can cancel at any time; its text is empty while a character or a possible stop
    text is incomplete. With several beams nothing is known before the end: each step gives an empty
    piece, and the last one holds all. The texts, put together, are the answer; so are the ids,
    which are all that were sampled, those of an end token and of a stop text included.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: FinishReason | None = None  # set in the last piece, and only there
    statistics: Statistics | None = None  # set in the last piece, and only there
    log_probabilities: tuple[TokenLogProbability, ...] = ()  # one an id, where they are asked for


@dataclass(frozen=True)
class Candidate:
    """One of the answers that a search with beams found."""

    text: str
    token_ids: tuple[int, ...]  # those of an end token and of a stop text included
    finish_reason: FinishReason
    score: float  # log_probability / tokens ** length_penalty; higher is better
    log_probability: float  # of the token ids, natural logarithm


@dataclass(frozen=True)
class Generation:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    statistics: Statistics
    log_probabilities: tuple[TokenLogProbability, ...] = ()  # one an id, where they are asked for

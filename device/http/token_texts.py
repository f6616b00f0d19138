"""Log-probabilities of tokens, written with their texts, in the two forms that OpenAI has.

Rules: end tokens are no part of an answer and are left out. A token that is part of a character has
no text of its own; its bytes say what it is. What a model holds impossible has the logarithm
`IMPOSSIBLE`, for JSON has no infinity.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from edgewise.runtime.generation import TokenLogProbability

IMPOSSIBLE = -9999.0  # as OpenAI writes it


class TokenWriter(Protocol):
    """What is needed of a tokenizer."""

    def bytes_of(self, token_id: int) -> bytes:
        """Return what a token adds to a text; nothing for special tokens."""
        ...

    def text_of(self, token_id: int) -> str | None:
        """Return how a token is written."""
        ...


class TokenTexts:
    """See the module's docstring."""

    def __init__(self, tokenizer: TokenWriter, end_ids: Collection[int]) -> None:
        """Write the tokens of a tokenizer; ``end_ids`` are left out."""
        self._tokenizer = tokenizer
        self._end_ids = frozenset(end_ids)

    def of_answer(self, tokens: Sequence[TokenLogProbability]) -> tuple[TokenLogProbability, ...]:
        """Return those tokens that are part of an answer."""
        return tuple(one for one in tokens if one.token_id not in self._end_ids)

    def for_chat(self, tokens: Sequence[TokenLogProbability]) -> dict[str, Any]:
        """Write tokens as chats have them."""
        content = [
            {
                **self._entry(one.token_id, one.log_probability),
                "top_logprobs": [self._entry(token, value) for token, value in one.likeliest],
            }
            for one in self.of_answer(tokens)
        ]
        return {"content": content, "refusal": None}

    def for_text(self, tokens: Sequence[TokenLogProbability], offset: int) -> dict[str, Any]:
        """Write tokens as continued texts have them.

        Args:
            tokens: Of an answer, in order.
            offset: Characters of the answer before them.
        """
        found = self.of_answer(tokens)
        offsets = []
        for one in found:
            offsets.append(offset)
            offset += self.characters(one.token_id)
        return {
            "tokens": [self._text(one.token_id) for one in found],
            "token_logprobs": [_written(one.log_probability) for one in found],
            "top_logprobs": [
                {self._text(token): _written(value) for token, value in reversed(one.likeliest)}
                for one in found
            ],
            "text_offset": offsets,
        }

    def characters(self, token_id: int) -> int:
        """Return how many characters begin in a token."""
        return sum(byte & 0xC0 != 0x80 for byte in self._tokenizer.bytes_of(token_id))

    def _entry(self, token_id: int, log_probability: float) -> dict[str, Any]:
        content = self._tokenizer.bytes_of(token_id) or self._text(token_id).encode()
        return {
            "token": self._text(token_id),
            "logprob": _written(log_probability),
            "bytes": list(content),
        }

    def _text(self, token_id: int) -> str:
        content = self._tokenizer.bytes_of(token_id)
        if content:
            return content.decode("utf-8", "replace")
        return self._tokenizer.text_of(token_id) or ""


def _written(log_probability: float) -> float:
    return max(log_probability, IMPOSSIBLE)

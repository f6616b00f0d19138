"""The JSON of answers, whole and in pieces, as OpenAI's clients read it."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgewise.device.http.token_texts import TokenTexts
from edgewise.runtime.generation import FinishReason, Piece, Statistics, TokenLogProbability


@dataclass
class Choice:
    """One answer, as far as it has come."""

    texts: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    statistics: Statistics | None = None
    log_probabilities: list[TokenLogProbability] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        self.texts.append(piece.text)
        self.finish_reason = piece.finished or self.finish_reason
        self.statistics = piece.statistics or self.statistics
        self.log_probabilities += piece.log_probabilities

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.texts)


def usage_of(choices: Sequence[Choice], answers_of_a_prompt: int) -> dict[str, Any]:
    """Sum the tokens up; a prompt with several answers counts once.

    Args:
        choices: Answers that have ended, those of a prompt side by side.
        answers_of_a_prompt: How many these are.
    """
    ended = [choice.statistics for choice in choices if choice.statistics is not None]
    prompts = ended[::answers_of_a_prompt]
    prompt_tokens = sum(one.prompt_tokens for one in prompts)
    completion_tokens = sum(one.generated_tokens for one in ended)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(one.reused_tokens for one in prompts)},
    }


class Reply(ABC):
    """One answer's envelope; subclasses say how a choice looks."""

    prefix: str  # of the id
    whole_object: str
    part_object: str
    has_beginning = False  # whether a stream's first piece of a choice has no text

    def __init__(
        self,
        model: str,
        fingerprint: str,
        *,
        usage_follows: bool = False,
        texts: TokenTexts | None = None,
    ) -> None:
        """Begin an answer.

        Args:
            model: The name that the client used.
            fingerprint: Changes with the model and the program.
            usage_follows: Whether a stream ends with the figures, which its other pieces then
                announce.
            texts: Writes log-probabilities; None: they were not asked for.
        """
        self._usage_follows = usage_follows
        self._texts = texts
        self._envelope = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, choices: Sequence[Choice], usage: dict[str, Any]) -> dict[str, Any]:
        """Return the answer in one piece."""
        items = [
            {
                **self._whole(choice),
                "logprobs": self._logprobs(index, choice.log_probabilities),
                "index": index,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]
        return {**self._envelope, "object": self.whole_object, "choices": items, "usage": usage}

    def parts(self, index: int, piece: Piece, *, is_first: bool) -> Iterator[dict[str, Any]]:
        """Give what a piece of a choice is in a stream: nothing, or up to three parts."""
        if is_first and self.has_beginning:
            yield self._part_of(index, None)
        tokens = piece.log_probabilities if self._texts is not None else ()
        if piece.text or (self._texts is not None and self._texts.of_answer(tokens)):
            yield self._part_of(index, piece.text, tokens=tokens)
        if piece.finished is not None:
            yield self._part_of(index, None, piece.finished)

    def _part_of(
        self,
        index: int,
        text: str | None,
        finish_reason: FinishReason | None = None,
        *,
        tokens: Sequence[TokenLogProbability] = (),
    ) -> dict[str, Any]:
        item = {
            **self._part(text, finish_reason),
            "logprobs": self._logprobs(index, tokens) if tokens else None,
            "index": index,
            "finish_reason": finish_reason,
        }
        return self._piece([item], None)

    def last(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Return the piece with the figures."""
        return self._piece([], usage)

    def _piece(self, items: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        follows = {"usage": usage} if self._usage_follows else {}
        return {**self._envelope, "object": self.part_object, "choices": items, **follows}

    @abstractmethod
    def _whole(self, choice: Choice) -> dict[str, Any]:
        """Return what a choice says, of the whole answer."""

    @abstractmethod
    def _logprobs(self, index: int, tokens: Sequence[TokenLogProbability]) -> dict[str, Any] | None:
        """Write the log-probabilities of a choice's next tokens; None: they were not asked for."""

    @abstractmethod
    def _part(self, text: str | None, finish_reason: FinishReason | None) -> dict[str, Any]:
        """Return what a choice says, of a piece."""


class ChatReply(Reply):
    """Of ``/v1/chat/completions``."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    part_object = "chat.completion.chunk"
    has_beginning = True

    def _whole(self, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {"message": message}

    def _logprobs(self, index: int, tokens: Sequence[TokenLogProbability]) -> dict[str, Any] | None:
        del index
        return None if self._texts is None else self._texts.for_chat(tokens)

    def _part(self, text: str | None, finish_reason: FinishReason | None) -> dict[str, Any]:
        if text is not None:
            delta = {"content": text}
        elif finish_reason is None:
            delta = {"role": "assistant", "content": ""}
        else:
            delta = {}
        return {"delta": delta}


class TextReply(Reply):
    """Of ``/v1/completions``."""

    prefix = "cmpl"
    whole_object = "text_completion"
    part_object = "text_completion"

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """Begin an answer; arguments are those of `Reply`."""
        super().__init__(*arguments, **settings)
        self._offsets: dict[int, int] = {}  # characters of each choice until now

    def _whole(self, choice: Choice) -> dict[str, Any]:
        return {"text": choice.text}

    def _logprobs(self, index: int, tokens: Sequence[TokenLogProbability]) -> dict[str, Any] | None:
        if self._texts is None:
            return None
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + sum(self._texts.characters(one.token_id) for one in tokens)
        return self._texts.for_text(tokens, offset)

    def _part(self, text: str | None, finish_reason: FinishReason | None) -> dict[str, Any]:
        del finish_reason
        return {"text": text or ""}

"""The JSON of answers, whole and in pieces, as OpenAI's clients read it."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edgewise.runtime.generation import FinishReason, Piece, Statistics


@dataclass
class Choice:
    """One answer, as far as it has come."""

    texts: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    statistics: Statistics | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        self.texts.append(piece.text)
        self.finish_reason = piece.finished or self.finish_reason
        self.statistics = piece.statistics or self.statistics

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

    def __init__(self, model: str, fingerprint: str, *, usage_follows: bool = False) -> None:
        """Begin an answer.

        Args:
            model: The name that the client used.
            fingerprint: Changes with the model and the program.
            usage_follows: Whether a stream ends with the figures, which its other pieces then
                announce.
        """
        self._usage_follows = usage_follows
        self._envelope = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, choices: Sequence[Choice], usage: dict[str, Any]) -> dict[str, Any]:
        """Return the answer in one piece."""
        items = [
            {**self._whole(choice), "index": index, "finish_reason": choice.finish_reason}
            for index, choice in enumerate(choices)
        ]
        return {**self._envelope, "object": self.whole_object, "choices": items, "usage": usage}

    def part(
        self, index: int, text: str | None, finish_reason: FinishReason | None = None
    ) -> dict[str, Any]:
        """Return the next piece of one choice; without a text it is the first or the last one."""
        item = {**self._part(text, finish_reason), "index": index, "finish_reason": finish_reason}
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
        return {"message": message, "logprobs": None}

    def _part(self, text: str | None, finish_reason: FinishReason | None) -> dict[str, Any]:
        if text is not None:
            delta = {"content": text}
        elif finish_reason is None:
            delta = {"role": "assistant", "content": ""}
        else:
            delta = {}
        return {"delta": delta, "logprobs": None}


class TextReply(Reply):
    """Of ``/v1/completions``."""

    prefix = "cmpl"
    whole_object = "text_completion"
    part_object = "text_completion"

    def _whole(self, choice: Choice) -> dict[str, Any]:
        return {"text": choice.text, "logprobs": None}

    def _part(self, text: str | None, finish_reason: FinishReason | None) -> dict[str, Any]:
        del finish_reason
        return {"text": text or "", "logprobs": None}

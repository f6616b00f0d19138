"""An encoder-decoder at work: a source is read once, then an answer is written token by token.

Rules: the source ends with the model's end token and must fit; the most probable token is taken at
every step. Closing the generator cancels.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.backends.protocol import EncoderDecoderBackend
from edgewise.runtime.sessions.encoder import TextEncoder


class SourceError(EdgewiseError):
    """A source that can not be read."""


@dataclass(frozen=True)
class SequenceTokens:
    """Ids with a function.

    Attributes:
        start: What the decoder begins with.
        end: Ends a source and an answer.
    """

    start: int
    end: int


class SequenceSession:
    """Answers by an encoder-decoder, one source at a time."""

    def __init__(
        self, backend: EncoderDecoderBackend, tokenizer: TextEncoder, tokens: SequenceTokens
    ) -> None:
        """Join an engine and a tokenizer.

        Args:
            backend: The engine.
            tokenizer: Of the same model.
            tokens: Ids with a function.
        """
        self._backend = backend
        self._tokenizer = tokenizer
        self._tokens = tokens

    def stream_ids(
        self, source_ids: Sequence[int], *, max_tokens: int = 256
    ) -> Generator[int, None, None]:
        """Read a source and give the answer's ids, the end token left out.

        Args:
            source_ids: With its end token.
            max_tokens: The most to give; the engine's capacity limits it too.

        Raises:
            SourceError: The source is empty or too long.
        """
        capacity = self._backend.source_capacity
        if not 1 <= len(source_ids) <= capacity:
            raise SourceError(
                f"the source has {len(source_ids)} tokens, this model reads 1 to {capacity}; "
                "give a shorter text"
            )
        counts = np.asarray([len(source_ids)], np.int32)
        self._backend.read_source(0, np.asarray([source_ids], np.int64), counts)
        token = np.asarray([[self._tokens.start]], np.int64)
        past = np.zeros(1, np.int32)
        for _ in range(min(max_tokens, self._backend.capacity)):
            token[0, 0] = self._backend.step(0, token, past)[0].argmax()
            past[0] += 1
            if token[0, 0] == self._tokens.end:
                return
            yield int(token[0, 0])

    def generate(self, text: str, *, max_tokens: int = 256) -> str:
        """Return the answer to a text.

        Raises:
            SourceError: The text is too long.
        """
        ids = [*self._tokenizer.encode(text, add_beginning=False), self._tokens.end]
        return self._tokenizer.decode(list(self.stream_ids(ids, max_tokens=max_tokens)))

    def close(self) -> None:
        """Give the engine's memory back."""
        self._backend.close()

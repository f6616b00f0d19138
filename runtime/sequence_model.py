"""An encoder-decoder that answers: a source text in, another text out.

Rules: a source is encoded as the model was trained, with its end token, and must fit: it is refused
with both numbers, never cut. There is no chat template, so that messages are refused. Stop texts of
the bundle end an answer beside the caller's own, unless the options say raw.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from time import perf_counter

from edgewise.runtime.backends.protocol import EncoderDecoderBackend
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.chat import ChatError
from edgewise.runtime.generation import Generation, Piece
from edgewise.runtime.model import Model
from edgewise.runtime.options import GenerationOptions, OptionsError
from edgewise.runtime.sessions.answer import Step, collect, pieces_of, stop_texts
from edgewise.runtime.sessions.seq2seq import SequenceSession, SequenceTokens, SourceError
from edgewise.runtime.tokenizer import Tokenizer


class SequenceModel(Model):
    """A bundle of the family "encoder_decoder" with its engine, ready to generate."""

    def __init__(
        self, bundle: Bundle, backend: EncoderDecoderBackend, tokenizer: Tokenizer
    ) -> None:
        """Put the loaded parts together; `edgewise.runtime.load` is what makes them."""
        super().__init__(bundle, backend, tokenizer)
        self._backend = backend
        self._tokens = _tokens_of(bundle)
        self._session = SequenceSession(backend, tokenizer, self._tokens)

    @property
    def context_length(self) -> int:
        """Tokens that an answer may have."""
        return self._backend.capacity

    @property
    def source_length(self) -> int:
        """Tokens that a source may have, its end token included."""
        return self._backend.source_capacity

    def stream(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        options: GenerationOptions | None = None,
    ) -> Generator[Piece, None, None]:
        """Generate an answer piece by piece; closing the generator cancels.

        Args:
            prompt: The source, a text, with the prefix of its task where the model was trained
                with one.
            options: How to generate; None: the defaults of `GenerationOptions`.

        Returns:
            A generator of pieces; the last one has ``finished`` and ``statistics``, whose prompt
            is the source. It computes nothing before its first ``next``, where it may wait for
            another generation's end.

        Raises:
            ChatError: The prompt is no text.
            OptionsError: What the options ask for can not be done.
            SourceError: The source is too long; both numbers are given.
            TaskError: The bundle was not made to generate.
            ModelError: The model is closed, or (at the first ``next``) this thread has another
                generation open.
        """
        if options is None:
            options = GenerationOptions()
        begin = perf_counter()
        self._require("generate")
        self._check_options(options)
        source_ids = self._encode(prompt)
        if len(source_ids) > self.source_length:
            raise SourceError(
                f"the source has {len(source_ids)} tokens, this model reads 1 to"
                f" {self.source_length}; give a shorter text"
            )
        encoding_seconds = perf_counter() - begin
        return self._stream(lambda: self._pieces(source_ids, options, encoding_seconds))

    def generate(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        options: GenerationOptions | None = None,
    ) -> Generation:
        """Generate a whole answer; arguments and errors are those of `stream`."""
        return collect(self.stream(prompt, options))

    def count_tokens(self, prompt: str | Sequence[Mapping[str, str]], *, raw: bool = False) -> int:
        """Return how many tokens a source has, its end token included, raw or not.

        Raises:
            ChatError: The prompt is no text.
        """
        del raw
        return len(self._encode(prompt))

    def _encode(self, prompt: str | Sequence[Mapping[str, str]]) -> list[int]:
        if not isinstance(prompt, str):
            raise ChatError(
                f"{self.manifest.model_id} answers a text and has no chat template, so it takes no"
                " messages: give a text"
            )
        return [*self.tokenizer.encode(prompt), self._tokens.end]

    def _check_options(self, options: GenerationOptions) -> None:
        if options.beams > 1 or options.temperature:
            raise OptionsError(
                f"{self.manifest.model_id} takes the most probable token at every step; leave"
                " temperature and beams out"
            )

    def _pieces(
        self, source_ids: Sequence[int], options: GenerationOptions, encoding_seconds: float
    ) -> Generator[Piece, None, None]:
        return pieces_of(
            self._steps(source_ids, min(options.max_tokens, self.context_length)),
            self.tokenizer.detokenizer(),
            stop_texts(options, self.manifest),
            prompt_tokens=len(source_ids),
            encoding_seconds=encoding_seconds,
        )

    def _steps(self, source_ids: Sequence[int], most: int) -> Generator[Step, None, None]:
        """Make steps of the session's ids, which leave the end token out."""
        held: int | None = None
        count = 0
        with contextlib.closing(self._session.stream_ids(source_ids, max_tokens=most)) as ids:
            for token_id in ids:
                if held is not None:
                    yield Step(held, None)
                held = token_id
                count += 1
        if held is not None and count == most:
            yield Step(held, "length")
            return
        if held is not None:
            yield Step(held, None)
        yield Step(self._tokens.end, "stop")


def _tokens_of(bundle: Bundle) -> SequenceTokens:
    tokens = bundle.manifest.tokens
    if tokens.start is None or not tokens.end:
        raise ValueError("the manifest of an encoder-decoder has both; its checks say so")
    return SequenceTokens(start=tokens.start, end=tokens.end[0])

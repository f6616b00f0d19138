"""An encoder-decoder that answers: a source text in, another text out.

Rules: a source is encoded as the model was trained, with its end token, and must fit: it is refused
with both numbers, never cut. Where the bundle has a template, which most have not, it makes the
source of a text or of messages. Template and stop texts of the bundle do nothing if the options say
raw.
"""

from __future__ import annotations

from collections.abc import Generator
from time import perf_counter

from numpy.typing import ArrayLike

from edgewise.runtime.admission import Standing
from edgewise.runtime.backends.protocol import EncoderDecoderBackend
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.chat import ChatError, ChatTemplate, Messages, check_messages
from edgewise.runtime.generation import Candidate, Generation, Piece
from edgewise.runtime.model import Model
from edgewise.runtime.options import GenerationOptions, OptionsError
from edgewise.runtime.padded_rows import in_front
from edgewise.runtime.sessions.answer import collect
from edgewise.runtime.sessions.seq2seq import SequenceSession
from edgewise.runtime.tokenizer import Tokenizer


class SequenceModel(Model):
    """A bundle of the family "encoder_decoder" with its engine, ready to generate."""

    def __init__(
        self,
        bundle: Bundle,
        backend: EncoderDecoderBackend,
        tokenizer: Tokenizer,
        template: ChatTemplate | None = None,
    ) -> None:
        """Put the loaded parts together; `edgewise.runtime.load` is what makes them."""
        super().__init__(bundle, backend, tokenizer)
        self._template = template
        self._backend = backend
        self._session = SequenceSession.of(backend, tokenizer, bundle.manifest)

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
        prompt: str | Messages,
        options: GenerationOptions | None = None,
        *,
        standing: Standing | None = None,
    ) -> Generator[Piece, None, None]:
        """Generate an answer piece by piece; closing the generator cancels.

        Args:
            prompt: The source, a text, with the prefix of its task where the model was trained
                with one; or what the bundle's template makes a source of.
            options: How to generate; None: the defaults of `GenerationOptions`.
            standing: As every model takes it, but answers have their turns as they were begun.

        Returns:
            A generator of pieces; the last one has ``finished`` and ``statistics``, whose prompt
            is the source. It computes nothing before its first ``next``, where it may wait for
            another generation's end. With several beams the text comes with the last piece.

        Raises:
            ChatError: There is no template for messages, or it refuses what was given.
            OptionsError: More beams are asked for than the model was loaded with slots for.
            SourceError: The source is too long; both numbers are given.
            TaskError: The bundle was not made to generate.
            ModelError: The model is closed, or (at the first ``next``) this thread has another
                generation open.
            CancelledError: The cancellation of its standing was set.
        """
        begin = perf_counter()
        settled, source_ids = self._settle(prompt, options)
        seconds = perf_counter() - begin
        return self._stream(
            lambda: self._session.stream(source_ids, settled, encoding_seconds=seconds),
            (standing or Standing()).cancellation,
        )

    def generate(
        self,
        prompt: str | Messages,
        options: GenerationOptions | None = None,
    ) -> Generation:
        """Generate a whole answer; arguments and errors are those of `stream`."""
        return collect(self.stream(prompt, options))

    def generate_rows(
        self,
        token_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        options: GenerationOptions | None = None,
    ) -> tuple[Generation, ...]:
        """Generate an answer to each row of ids, one after the other; each is that of it alone.

        Args:
            token_ids: [B, S], sources as another tokenizer made and padded them, with their end
                tokens.
            attention_mask: [B, S], 1 for real tokens and 0 for padding, which may stand before or
                behind them; None: all are real.
            options: How to generate.

        Raises:
            PaddingError: The arrays are no such rows, or an id is outside the vocabulary.
            EdgewiseError: As `stream`.
        """
        settled = self._checked(options)
        size = self.manifest.vocabulary_size
        rows = in_front(token_ids, attention_mask, vocabulary_size=size).lists()
        for row in rows:
            self._session.check(row, settled)
        with self._turn():
            return tuple(self._session.generate(row, settled) for row in rows)

    def count_tokens(self, prompt: str | Messages, *, raw: bool = False) -> int:
        """Return how many tokens a source has, its end token included, raw or not.

        Raises:
            ChatError: As `stream`.
        """
        return len(self._encode(prompt, raw=raw))

    def candidates(
        self, prompt: str, options: GenerationOptions | None = None
    ) -> tuple[Candidate, ...]:
        """Search with beams, and give every answer that was found.

        Args:
            prompt: As `stream` takes it.
            options: How to search.

        Returns:
            Up to ``options.beams`` answers with their scores, the best first.

        Raises:
            EdgewiseError: As `stream`.
        """
        settled, source_ids = self._settle(prompt, options)
        with self._turn():
            return self._session.candidates(source_ids, settled)

    def _settle(
        self, prompt: str | Messages, options: GenerationOptions | None
    ) -> tuple[GenerationOptions, list[int]]:
        settled = self._checked(options)
        source_ids = self._encode(prompt, raw=settled.raw)
        self._session.check(source_ids, settled)
        return settled, source_ids

    def _checked(self, options: GenerationOptions | None) -> GenerationOptions:
        """Refuse what encoder-decoders do not; None are the defaults."""
        settled = GenerationOptions() if options is None else options
        if settled.output_format is not None:
            raise OptionsError(
                f"an output format is given; {self.manifest.model_id}, an encoder-decoder, follows"
                " none: leave it out, or ask a decoder"
            )
        if settled.window is not None:
            raise OptionsError(
                f"a window is given; {self.manifest.model_id}, an encoder-decoder, has none: leave"
                " it out, or ask a decoder"
            )
        self._require("generate")
        return settled

    def _encode(self, prompt: str | Messages, *, raw: bool) -> list[int]:
        if isinstance(prompt, str) and (raw or self._template is None):
            return self._session.encode(prompt)
        if raw:
            raise ChatError("a raw prompt must be a text, not messages")
        if self._template is None:
            raise ChatError(
                f"{self.manifest.model_id} answers a text and has no chat template, so it takes no"
                " messages: give a text"
            )
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return self._session.encode(self._template.render(check_messages(messages)))

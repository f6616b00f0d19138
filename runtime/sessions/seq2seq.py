"""An encoder-decoder at work: a source is read once, then an answer is written or searched for.

Workflow: `SequenceSession.stream` gives pieces of one answer, greedy or sampled, or searched with
``options.beams``; `candidates` gives every answer that a search has found, with its score. The
encoder runs once a source, and so do the products of its states that the decoder attends to.

Rules: the source ends with the model's end token, unless its prompt leaves it open, and must fit;
it is refused, never cut. What a search finds is known at its end: its pieces are empty, one a step,
until the last one brings the text. Closing a generator cancels. One generation at a time; not
thread-safe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from edgewise.common.errors import EdgewiseError
from edgewise.runtime.backends.protocol import EncoderDecoderBackend
from edgewise.runtime.beam_search import BeamSearch, BeamSettings, Hypothesis, log_softmax
from edgewise.runtime.decoding import Decoding
from edgewise.runtime.generation import Candidate, Generation, Piece, Statistics
from edgewise.runtime.log_probabilities import recorder_of
from edgewise.runtime.manifest import Manifest
from edgewise.runtime.options import GenerationOptions, OptionsError, SamplingDefaults
from edgewise.runtime.penalties import penalize_in_place
from edgewise.runtime.sampling import Sampler, check_largest
from edgewise.runtime.sessions.answer import collect, stop_texts
from edgewise.runtime.sessions.beams import run_search
from edgewise.runtime.stop import StopTexts
from edgewise.runtime.token_rules import TokenRules
from edgewise.runtime.tokenizer import Tokenizer


class SourceError(EdgewiseError):
    """A source that can not be read."""


class SequenceSession:
    """Answers by an encoder-decoder, one source at a time."""

    def __init__(
        self,
        backend: EncoderDecoderBackend,
        tokenizer: Tokenizer,
        rules: TokenRules,
        *,
        start: int,
        ends_source: bool = True,
        defaults: SamplingDefaults | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        """Join an engine and a tokenizer.

        Args:
            backend: The engine; searching takes a slot for each beam.
            tokenizer: Of the same model.
            rules: What its answers keep to.
            start: The token that its decoder begins with.
            ends_source: Whether an end token stands behind a source.
            defaults: The sampling that its checkpoint advises.
            stop: Texts that end an answer beside the caller's, unless the options say raw.
        """
        self._backend = backend
        self._tokenizer = tokenizer
        self._rules = rules
        self._end_ids = frozenset(rules.end)
        self._start = start
        self._source_end = list(rules.end)[:1] if ends_source else []
        self._defaults = SamplingDefaults() if defaults is None else defaults
        self._stop = tuple(stop)
        self._is_busy = False

    @classmethod
    def of(
        cls, backend: EncoderDecoderBackend, tokenizer: Tokenizer, manifest: Manifest
    ) -> SequenceSession:
        """Join the engine and the tokenizer of a bundle.

        Raises:
            SourceError: The bundle is not that of an encoder-decoder.
        """
        tokens = manifest.tokens
        if tokens.start is None:
            raise SourceError(
                f"the bundle of {manifest.model_id} is of the family {manifest.family}, which reads"
                " no source; load one of an encoder-decoder"
            )
        rules = TokenRules(
            end=tokens.end,
            sampled=manifest.sampled_vocabulary,
            forced_first=tokens.forced_first,
            forced_last=tokens.forced_last,
        )
        return cls(
            backend,
            tokenizer,
            rules,
            start=tokens.start,
            ends_source=tokens.ends_source,
            defaults=manifest.defaults,
            stop=manifest.stop,
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a source, with its end token if it has one."""
        return [*self._tokenizer.encode(text), *self._source_end]

    def check(self, source_ids: Sequence[int], options: GenerationOptions) -> None:
        """Refuse what can not be answered.

        Raises:
            SourceError: The source is empty or too long.
            OptionsError: More beams are asked for than the engine has slots.
        """
        capacity = self._backend.source_capacity
        if not 1 <= len(source_ids) <= capacity:
            raise SourceError(
                f"the source has {len(source_ids)} tokens, this model reads 1 to {capacity}; "
                "give a shorter text"
            )
        if options.beams > self._backend.slots:
            raise OptionsError(
                f"beams is {options.beams}; accepted: up to {self._backend.slots}, as many as the"
                " model was loaded with slots for"
            )

    def stream(
        self,
        source_ids: Sequence[int],
        options: GenerationOptions,
        *,
        encoding_seconds: float = 0.0,
    ) -> Generator[Piece, None, None]:
        """Answer piece by piece; see `Piece`, and this module about beams.

        Args:
            source_ids: With the end token; see `encode`.
            options: How to answer.
            encoding_seconds: What making the ids took; part of the time to first token.

        Raises:
            SourceError: The source is empty or too long.
            OptionsError: More beams are asked for than the engine has slots.
        """
        self.check(source_ids, options)
        if options.beams > 1:
            pieces = self._searched(source_ids, options, encoding_seconds)
        else:
            pieces = self._sampled(source_ids, options, encoding_seconds)
        held: Piece | None = None
        with self._held(), contextlib.closing(pieces):
            for held in pieces:
                if held.finished is not None:
                    break
                yield held
        if held is not None:
            yield held

    def generate(self, source_ids: Sequence[int], options: GenerationOptions) -> Generation:
        """Give a whole answer; arguments and errors are those of `stream`."""
        return collect(self.stream(source_ids, options))

    def candidates(
        self, source_ids: Sequence[int], options: GenerationOptions
    ) -> tuple[Candidate, ...]:
        """Search, and give everything that was found.

        Args:
            source_ids: As `stream` takes them.
            options: How to search; with one beam, too.

        Returns:
            Up to ``options.beams`` answers, the best first.

        Raises:
            SourceError: The source is empty or too long.
            OptionsError: As `stream`.
        """
        self.check(source_ids, options)
        search = self._new_search(options)
        with self._held():
            for _ in self._search(search, source_ids, options):
                pass
        return tuple(self._candidate(found, options) for found in search.best())

    def close(self) -> None:
        """Give the engine's memory back."""
        self._backend.close()

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        if self._is_busy:
            raise ValueError("this session has a generation open; end it first")
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def _first_logits(self, source_ids: Sequence[int]) -> NDArray[np.float32]:
        """Read a source into slot 0; return what may follow the start token, [1, vocabulary]."""
        counts = np.asarray([len(source_ids)], np.int32)
        self._backend.read_source(0, np.asarray([source_ids], np.int64), counts)
        return self._backend.step(0, np.asarray([[self._start]], np.int64), np.zeros(1, np.int32))

    def _most(self, options: GenerationOptions) -> int:
        return min(options.max_tokens, self._backend.capacity)  # the last one is never fed

    def _sampled(
        self, source_ids: Sequence[int], options: GenerationOptions, seconds: float
    ) -> Generator[Piece, None, None]:
        most = self._most(options)
        decoding = Decoding(
            source_ids,
            Sampler(
                options.sampling(self._defaults), [self._start], bytes_of=self._tokenizer.bytes_of
            ).sample,
            self._tokenizer.detokenizer(),
            StopTexts(stop_texts(options, self._stop)),
            max_tokens=most,
            end_ids=self._end_ids,
            recorder=recorder_of(options, self._rules.sampled),
            seconds=seconds,
        )
        token = np.empty((1, 1), np.int64)
        past = np.zeros(1, np.int32)
        for position in range(most):
            begin = perf_counter()
            if position:
                past[0] = position
                logits = self._backend.step(0, token, past)
            else:
                logits = self._first_logits(source_ids)
            is_last = position + 1 == most
            self._rules.restrict(logits, position, is_last=is_last)
            decoding.take(logits[:1], most - position - 1, perf_counter() - begin)
            decoding.publish(perf_counter() - begin)
            piece = decoding.pieces.popleft()
            if is_last and self._rules.forced_last is not None:
                piece = replace(piece, finished="length")  # the end is not the model's
            token[0, 0] = piece.token_ids[0]
            yield piece
            if piece.finished is not None:
                return

    def _searched(
        self, source_ids: Sequence[int], options: GenerationOptions, seconds: float
    ) -> Generator[Piece, None, None]:
        begin = perf_counter()
        first = 0.0
        search = self._new_search(options)
        for _ in self._search(search, source_ids, options):
            seconds += perf_counter() - begin
            first = first or seconds
            yield Piece("", ())
            begin = perf_counter()
        best = self._candidate(search.best(1)[0], options)
        seconds += perf_counter() - begin
        first = first or seconds
        yield Piece(
            best.text,
            best.token_ids,
            best.finish_reason,
            Statistics.measured(
                len(source_ids), len(best.token_ids), first_seconds=first, seconds=seconds
            ),
        )

    def _new_search(self, options: GenerationOptions) -> BeamSearch:
        settings = BeamSettings(
            beams=options.beams,
            max_tokens=self._most(options),
            end_ids=self._end_ids,
            groups=options.beam_groups,
            diversity_penalty=options.diversity_penalty,
            length_penalty=options.length_penalty,
        )
        stops = stop_texts(options, self._stop)
        return BeamSearch(settings, lambda ids: bool(stops) and self._text(ids, stops)[1])

    def _search(
        self, search: BeamSearch, source_ids: Sequence[int], options: GenerationOptions
    ) -> Generator[None, None, None]:
        most = self._most(options)
        penalty = options.sampling(self._defaults).repetition_penalty

        def weigh(logits: NDArray[np.float32]) -> NDArray[np.float64]:
            check_largest(float(logits.max(axis=1).min()))  # a NaN comes through both
            scores = log_softmax(logits)
            if penalty != 1.0:
                for row, token_ids in enumerate(search.active):
                    seen = np.asarray(list({self._start, *token_ids}), np.int64)
                    penalize_in_place(scores[row], seen, penalty)
            is_last = search.length + 1 == most
            self._rules.restrict(scores, search.length, is_last=is_last)
            return scores

        yield from run_search(self._backend, search, self._first_logits(source_ids), 1, weigh)

    def _candidate(self, found: Hypothesis, options: GenerationOptions) -> Candidate:
        text, _ = self._text(found.token_ids, stop_texts(options, self._stop))
        is_cut = self._rules.forced_last is not None and len(found.token_ids) == self._most(options)
        return Candidate(
            text,
            found.token_ids,
            "length" if is_cut else found.finished,
            found.score,
            found.log_probability,
        )

    def _text(self, token_ids: Sequence[int], stops: Sequence[str]) -> tuple[str, bool]:
        """Return the text of an answer, and whether a stop text has ended it."""
        detokenizer = self._tokenizer.detokenizer()
        ids = token_ids[:-1] if token_ids[-1] in self._end_ids else token_ids
        text = "".join(map(detokenizer.push, ids)) + detokenizer.finish()
        stop = StopTexts(stops)
        shown, is_stopped = stop.push(text)
        return shown + stop.finish(), is_stopped

"""A decoder that answers: what an application holds for chat and for continuing a text.

Rules: texts and messages become ids by the bundle's chat template unless the options say raw. The
stop texts of the bundle's prompt format end every answer that is not raw, beside the caller's own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from time import perf_counter
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from edgewise.runtime.admission import Standing
from edgewise.runtime.backends.protocol import Backend, Cache
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.chat import ChatError, ChatTemplate, Messages, check_messages
from edgewise.runtime.chunks import PREFILL_CHUNK
from edgewise.runtime.generation import Generation, Piece
from edgewise.runtime.model import Model
from edgewise.runtime.option_checks import check_whole
from edgewise.runtime.options import SEVERAL_MAX, GenerationOptions, OptionsError
from edgewise.runtime.padded_rows import in_front
from edgewise.runtime.prefix_store import PrefixError, PrefixStore
from edgewise.runtime.prompt_beginning import common_beginning, continued
from edgewise.runtime.sessions.answer import collect, collect_all
from edgewise.runtime.sessions.decoder import DecoderSession
from edgewise.runtime.slot_pool import LEAST_COPIED
from edgewise.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:  # loads modules that only who keeps beginnings, or drafts, needs
    from edgewise.runtime.draft_loading import Drafting
    from edgewise.runtime.prefix_files import SavedPrefix


class LanguageModel(Model):
    """A bundle of the family "decoder" with its engine, ready to generate."""

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        prefill_chunk: int = PREFILL_CHUNK,
        cache_bytes: int | None = None,
        store: PrefixStore | None = None,
        drafting: Drafting | None = None,
    ) -> None:
        """Put the loaded parts together; `edgewise.runtime.load` is what makes them."""
        super().__init__(bundle, backend, tokenizer)
        self._backend = backend
        self._template = template
        self._drafting = drafting
        self._session = DecoderSession(
            backend,
            tokenizer,
            bundle.manifest,
            prefill_chunk=prefill_chunk,
            cache_bytes=cache_bytes,
            store=store,
            new_drafter=None if drafting is None else drafting.new_drafter,
            tokenizer_json=lambda: bundle.read_text("tokenizer"),
        )

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._backend.capacity

    @property
    def answers_at_once(self) -> int:
        """As many as the cache has slots."""
        return self._backend.slots

    def stream(
        self,
        prompt: str | Messages,
        options: GenerationOptions | None = None,
        *,
        standing: Standing | None = None,
    ) -> Generator[Piece, None, None]:
        """Generate an answer piece by piece; closing the generator cancels.

        Any number of generations may be open at once, in one thread or in several. As many as the
        cache has slots are computed together, the others wait.

        Args:
            prompt: Messages, or a text. With a chat template in the bundle, a text is one user
                message unless ``options.raw``; without one it is continued as it is.
            options: How to generate; None: the defaults of `GenerationOptions`.
            standing: Whose request it is, and how urgent; None: nobody's in particular.

        Returns:
            A generator of pieces; the last one has ``finished`` and ``statistics``. It computes
            nothing before its first ``next``, where it may wait for another generation's end.

        Raises:
            ChatError: Messages are malformed, the template refuses them, or there is none.
            OptionsError: Several beams are asked for.
            ContextError: The prompt is empty or longer than the context; both numbers are given.
            TaskError: The bundle was not made to generate.
            FormatError: The output format can not be used.
            ModelError: The model is closed, now or at a later ``next``.
            CancelledError: At a ``next``: the cancellation of its standing was set.
        """
        settled = self._checked(options)
        begin = perf_counter()
        self._require("generate")
        prompt_ids, continues = self._encode(prompt, raw=settled.raw)
        self._session.slots.check_prompt(len(prompt_ids))
        encoding_seconds = perf_counter() - begin
        return self._session.stream(
            prompt_ids,
            settled,
            continues=continues,
            encoding_seconds=encoding_seconds,
            standing=standing,
        )

    def generate(
        self,
        prompt: str | Messages,
        options: GenerationOptions | None = None,
        *,
        standing: Standing | None = None,
    ) -> Generation:
        """Generate a whole answer; arguments and errors are those of `stream`."""
        return collect(self.stream(prompt, options, standing=standing))

    def generate_several(
        self,
        prompt: str | Messages,
        options: GenerationOptions | None = None,
        *,
        count: int,
        standing: Standing | None = None,
    ) -> tuple[Generation, ...]:
        """Generate several answers to one prompt, which is computed once.

        As many as the cache has slots are computed together. With a seed, each answer has one of
        its own, counted up from it; the first is what `generate` gives.

        Args:
            prompt: As `stream` takes it.
            options: How to generate.
            count: Answers, 1 to SEVERAL_MAX.
            standing: As `stream` takes it.

        Raises:
            OptionsError: The count is not accepted, or several answers would all be the same.
            EdgewiseError: As `stream`.
        """
        return self._several(
            count, options, lambda one: self.stream(prompt, one, standing=standing)
        )

    def generate_rows(
        self,
        token_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        options: GenerationOptions | None = None,
        *,
        standing: Standing | None = None,
    ) -> tuple[Generation, ...]:
        """Generate an answer to each row of ids, as another tokenizer made and padded them.

        As many as the cache has slots are computed together. Each answer is that of the row alone.

        Args:
            token_ids: [B, T], whole prompts, with whatever they begin with.
            attention_mask: [B, T], 1 for real tokens and 0 for padding, which may stand before or
                behind them; None: all are real.
            options: How to generate; ``raw`` says that a row's answer continues its text.
            standing: As `stream` takes it.

        Raises:
            PaddingError: The arrays are no such rows, or an id is outside the vocabulary.
            EdgewiseError: As `stream`.
        """
        settled = self._checked(options)
        self._require("generate")
        size = self.manifest.vocabulary_size
        rows = in_front(token_ids, attention_mask, vocabulary_size=size).lists()
        for row in rows:
            self._session.slots.check_prompt(len(row))
        return collect_all(
            [
                self._session.stream(row, settled, continues=settled.raw, standing=standing)
                for row in rows
            ]
        )

    def _several(
        self,
        count: int,
        options: GenerationOptions | None,
        stream: Callable[[GenerationOptions], Generator[Piece, None, None]],
    ) -> tuple[Generation, ...]:
        """Generate several answers, each by a stream of its own options."""
        check_whole("n", count, 1, SEVERAL_MAX)
        settled = self._checked(options)
        if count > 1 and settled.sampling(self.manifest.defaults).temperature == 0.0:
            raise OptionsError(
                f"n is {count} with the temperature 0, which gives the same answer each time;"
                " accepted: 1, or a temperature above 0"
            )
        return collect_all([stream(settled.numbered(index)) for index in range(count)])

    def score(self, prompt: str | Messages) -> dict[str, float]:
        """Return the numbers of a scoring head at the prompt's last token, by label.

        Args:
            prompt: A text, which is read as it is, or messages, by the chat template.

        Raises:
            ChatError: As `stream`.
            ContextError: The prompt is empty or longer than the context; both numbers are given.
            TaskError: The bundle was not made to score.
            ModelError: The model is closed.
        """
        self._require("score")
        prompt_ids, _ = self._encode(prompt, raw=isinstance(prompt, str))
        scores = self._session.score(prompt_ids)
        return dict(zip(self.manifest.labels, scores.tolist(), strict=True))

    def warm(self, prompt: str | Messages, *, raw: bool = False) -> int:
        """Compute the beginning of prompts once and keep it in memory until the model is closed.

        Args:
            prompt: What later prompts begin with: a text (with a chat template, the beginning of a
                user's message unless ``raw``), or messages, of which the last one goes on if it is
                the user's.
            raw: As in the options of the answers.

        Returns:
            How many tokens a prompt that begins so does not compute again.

        Raises:
            ChatError: As `stream`.
            ContextError: The beginning is longer than the context.
            PrefixError: It is too short to be worth it.
            TaskError: The bundle was not made to generate.
            ModelError: The model is closed.
        """
        tokens, cache = self._beginning(prompt, raw=raw)
        self._session.store.put(tokens, lambda: cache, pinned=True)
        return len(tokens)

    def save_beginning(self, prompt: str | Messages, *, raw: bool = False) -> SavedPrefix:
        """Do as `warm`, and keep it beside the bundle, where every later `load` finds it.

        Returns:
            The file and the tokens in it.

        Raises:
            EdgewiseError: As `warm`; also `PrefixError` where no folder can be written.
        """
        from edgewise.runtime.prefix_files import save  # noqa: PLC0415  # loads modules of its own

        tokens, cache = self._beginning(prompt, raw=raw)
        saved = save(self.bundle, tokens, cache)
        self._session.store.add_saved(saved.tokens, saved.read_cache)
        return saved

    def _beginning(self, prompt: str | Messages, *, raw: bool) -> tuple[list[int], Cache]:
        self._require("generate")
        tokens = common_beginning(
            [self._encode(longer, raw=raw)[0] for longer in continued(prompt)]
        )
        if len(tokens) < LEAST_COPIED:
            raise PrefixError(
                f"prompts that begin so have {len(tokens)} tokens in common; accepted: at least "
                f"{LEAST_COPIED}, for fewer are computed as fast as they are read"
            )
        return tokens, self._session.cache_of(tokens)

    def count_tokens(self, prompt: str | Messages, *, raw: bool = False) -> int:
        """Return how many tokens of the context a prompt takes, with its template.

        Raises:
            ChatError: As `stream`.
        """
        return len(self._encode(prompt, raw=raw)[0])

    def _checked(self, options: GenerationOptions | None) -> GenerationOptions:
        """Refuse several beams; None are the defaults."""
        if options is None:
            return GenerationOptions()
        if options.beams > 1:
            raise OptionsError(
                f"beams is {options.beams}; accepted by the model {self.manifest.model_id}, a"
                " decoder: 1. Models that translate or repair a text search with more"
            )
        return options

    def _encode(self, prompt: str | Messages, *, raw: bool) -> tuple[list[int], bool]:
        """Return the prompt's ids, and whether the answer continues a text."""
        text, is_chat = self._text(prompt, raw=raw)
        ids = self.tokenizer.encode(text, add_beginning=False if is_chat else None)
        return ids, not is_chat and bool(text)

    def _text(self, prompt: str | Messages, *, raw: bool) -> tuple[str, bool]:
        """Return the whole prompt as a text, and whether the chat template wrote it."""
        messages = None if raw else self._messages(prompt)
        if messages is None:
            if not isinstance(prompt, str):
                raise ChatError("a raw prompt must be a text, not messages")
            return prompt, False
        checked = check_messages(messages)
        if self._template is None:
            raise ChatError(
                f"the bundle of {self.manifest.model_id} has no chat template, so it takes no"
                " messages: give a text, or export from a checkpoint that has a template"
            )
        return self._template.render(checked), True

    def _messages(self, prompt: str | Messages) -> Messages | None:
        """Return what the chat template gets; None where a text is continued as it is."""
        if not isinstance(prompt, str):
            return prompt
        return None if self._template is None else [{"role": "user", "content": prompt}]

    def _close_engine(self) -> None:
        self._session.close()
        if self._drafting is not None:
            self._drafting.close()
        super()._close_engine()

"""A decoder-only model at work: prompts of ids become answers of text.

Workflow: `DecoderSession.stream` joins what one answer needs (sampling, text, stop texts, a format)
into a `Decoding` and hands it to the scheduler, which computes it beside the others; `generate`
waits for the end. The prompt is read in chunks, which bounds the engine's scratch memory and lets a
caller cancel.

Rules: closing a generator cancels, at a token or at a chunk of the prompt; the slot is free again
before the last item is given out, and whenever a generator ends for another reason.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.admission import Standing
from edgewise.runtime.backends.protocol import Backend, Cache
from edgewise.runtime.chunks import PREFILL_CHUNK
from edgewise.runtime.decoding import Decoding
from edgewise.runtime.draft_length import StepCosts
from edgewise.runtime.drafting import Drafter
from edgewise.runtime.generation import Generation, Piece
from edgewise.runtime.log_probabilities import recorder_of
from edgewise.runtime.manifest import Manifest
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.output_format import FormatError, OutputFormat
from edgewise.runtime.prefix_store import PrefixStore
from edgewise.runtime.sampling import Sampler
from edgewise.runtime.scheduler import Scheduler
from edgewise.runtime.sessions.answer import collect, stop_texts
from edgewise.runtime.slot_pool import ContextError, SlotPool
from edgewise.runtime.speculation import Speculation
from edgewise.runtime.stop import StopTexts
from edgewise.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:  # what follows a format is loaded with the first one that is asked for
    from edgewise.runtime.constraint import Constraint, ConstraintCompiler


class DecoderSession:
    """Generates text with one backend and its tokenizer. Any number of threads may ask at once."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        manifest: Manifest,
        *,
        prefill_chunk: int = PREFILL_CHUNK,
        cache_bytes: int | None = None,
        reuse: bool = True,
        store: PrefixStore | None = None,
        new_drafter: Callable[[], Drafter] | None = None,
        tokenizer_json: Callable[[], str] | None = None,
    ) -> None:
        """Begin with an empty cache.

        Args:
            backend: The engine.
            tokenizer: Of the same bundle.
            manifest: Of the same bundle; its end tokens, stop texts and sampling defaults are used.
            prefill_chunk: Tokens of the prompt in one step, at least 1.
            cache_bytes: What keys and values may take together; None: what all slots take.
            reuse: Whether a prompt may begin with what an earlier one has computed.
            store: Known beginnings beside those in slots; None: none.
            new_drafter: Gives what drafts for one answer; None: nothing is drafted.
            tokenizer_json: Gives the tokenizer's file, which formats of the output need.
        """
        self._tokenizer = tokenizer
        self._manifest = manifest
        self._end_ids = frozenset(manifest.tokens.end)
        self._tokenizer_json = tokenizer_json
        self._new_drafter = new_drafter
        self._step_costs = StepCosts()
        self._compiler: ConstraintCompiler | None = None
        self._compiler_lock = threading.Lock()
        self._backend = backend
        self.store = PrefixStore() if store is None else store
        self.slots = SlotPool(
            backend.slots,
            backend.capacity,
            bytes_of=backend.slot_bytes,
            budget_bytes=cache_bytes,
            reuse=reuse,
            on_evict=self._keep,
            on_release=backend.release,
        )
        self.scheduler = Scheduler(
            backend, self.slots, store=self.store, prefill_chunk=prefill_chunk
        )

    def stream(
        self,
        prompt_ids: Sequence[int],
        options: GenerationOptions,
        *,
        continues: bool = False,
        encoding_seconds: float = 0.0,
        standing: Standing | None = None,
    ) -> Generator[Piece, None, None]:
        """Generate text piece by piece; see `Piece`.

        Args:
            prompt_ids: At least one id, at most the slots' capacity.
            options: What to generate; ``raw`` leaves out the bundle's stop texts.
            continues: The answer continues the prompt's text; see `Detokenizer`.
            encoding_seconds: What making the prompt's ids took; part of the time to first token.
            standing: Whose request it is, and how urgent; None: nobody's in particular.

        Raises:
            ContextError: The prompt is empty or longer than the context.
            FormatError: The format that is asked for can not be used.
            ModelError: The scheduler was closed.
        """
        if options.window is not None and len(prompt_ids) > options.window:
            raise ContextError(
                f"the prompt has {len(prompt_ids)} tokens, the window holds {options.window}: "
                "shorten it, or give a larger window"
            )
        sampler = Sampler(
            options.sampling(self._manifest.defaults),
            prompt_ids,
            sampled_vocabulary=self._manifest.sampled_vocabulary,
            bytes_of=self._tokenizer.bytes_of,
        )
        return self.scheduler.run(
            Decoding(
                prompt_ids,
                sampler.sample,
                self._tokenizer.detokenizer(continues=continues),
                StopTexts(stop_texts(options, self._manifest.stop)),
                max_tokens=options.max_tokens,
                end_ids=self._end_ids,
                constraint=self._constraint(options.output_format),
                note=sampler.note,
                recorder=recorder_of(options, self._manifest.sampled_vocabulary),
                window=options.window,
                speculation=self._speculation(prompt_ids),
                standing=Standing() if standing is None else standing,
                seconds=encoding_seconds,
            )
        )

    def score(self, prompt_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return what a scoring head gives at the last token: float32 [labels].

        Args:
            prompt_ids: As `stream` takes them.

        Raises:
            ContextError: The text is empty or longer than the context.
            ModelError: The scheduler was closed.
        """
        found: list[NDArray[np.float32]] = []

        def keep(scores: NDArray[np.float32]) -> int:
            found.append(scores.copy())
            return 0

        # One choice is made, at the end of the prompt; nothing is fed after it.
        for _ in self.scheduler.run(Decoding(prompt_ids, keep, max_tokens=1)):
            pass
        return found[0]

    def cache_of(self, prompt_ids: Sequence[int]) -> Cache:
        """Compute the keys and values of a prompt; see ``Backend.read_cache``.

        Args:
            prompt_ids: As `stream` takes them.

        Raises:
            ContextError: The prompt is empty or longer than the context.
            ModelError: The scheduler was closed.
        """
        found: list[Cache] = []

        def copy(_logits: NDArray[np.float32]) -> int:
            if decoding.slot is not None:  # it is held while a token is chosen
                found.append(self._backend.read_cache(decoding.slot, len(prompt_ids)))
            return 0

        decoding = Decoding(prompt_ids, copy, max_tokens=1)
        for _ in self.scheduler.run(decoding):
            pass
        return found[0]

    def _keep(self, slot: int, tokens: tuple[int, ...]) -> None:
        self.store.put(tokens, lambda: self._backend.read_cache(slot, len(tokens)))

    def generate(
        self, prompt_ids: Sequence[int], options: GenerationOptions, *, continues: bool = False
    ) -> Generation:
        """Generate a whole answer; arguments and errors are those of `stream`."""
        return collect(self.stream(prompt_ids, options, continues=continues))

    def close(self) -> None:
        """End every generation."""
        self.scheduler.close()
        with self._compiler_lock:
            if self._compiler is not None:
                self._compiler.close()
                self._compiler = None

    def _speculation(self, prompt_ids: Sequence[int]) -> Speculation | None:
        if self._new_drafter is None:
            return None
        return Speculation(prompt_ids, self._new_drafter(), self._step_costs)

    def _constraint(self, output_format: OutputFormat | None) -> Constraint | None:
        if output_format is None:
            return None
        from edgewise.runtime.constraint import ConstraintCompiler  # noqa: PLC0415  # slow to load

        with self._compiler_lock:
            if self._compiler is None:
                if self._tokenizer_json is None:
                    raise FormatError("this session has no tokenizer file to follow a format with")
                self._compiler = ConstraintCompiler(
                    self._tokenizer_json(),
                    vocabulary_size=self._manifest.vocabulary_size,
                    end_ids=sorted(self._end_ids),
                )
            compiler = self._compiler
        return compiler.compile(output_format)

"""A decoder-only model at work: ids, then text, then the whole answer.

Workflow, three layers of which each is usable alone: `generate_step` runs the engine and gives
token ids; `DecoderSession.stream` makes text and figures of them; `DecoderSession.generate` waits
for the end. The prompt is read in chunks, which bounds the engine's scratch memory and lets a
caller cancel.

Rules: closing a generator cancels, at a token or at a chunk of the prompt; the slot is free again
before the last item is given out, and whenever a generator ends for another reason. Everything that
does not depend on the token is prepared before the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.backends.protocol import Backend
from edgewise.runtime.generation import Generation, Piece
from edgewise.runtime.kv_cache import SlotTable
from edgewise.runtime.manifest import Manifest
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.sampling import Sampler
from edgewise.runtime.scheduler import PREFILL_CHUNK
from edgewise.runtime.sessions.answer import Step, collect, pieces_of, stop_texts
from edgewise.runtime.stop import StopTexts
from edgewise.runtime.tokenizer import Tokenizer


def generate_step(
    backend: Backend,
    slots: SlotTable,
    prompt_ids: Sequence[int],
    choose: Callable[[NDArray[np.float32]], int],
    *,
    max_tokens: int,
    end_ids: Collection[int] = (),
    prefill_chunk: int = PREFILL_CHUNK,
) -> Generator[Step, None, None]:
    """Generate token ids.

    Args:
        backend: The engine.
        slots: Of the backend's cache; one is held while the generator runs.
        prompt_ids: At least one id, at most the slots' capacity.
        choose: Gives the next id for the logits [vocabulary], float32, of one step; it must not
            keep the array.
        max_tokens: Ids to generate at most, at least 1. A full slot ends the generation as well.
        end_ids: Ids after which there is nothing more; the one that came is given out.
        prefill_chunk: Tokens of the prompt in one step.

    Yields:
        A step for each chunk of the prompt but the last, then one for each id.

    Raises:
        ContextError: The prompt is empty or longer than the capacity.
        NoFreeSlotError: Every slot is held.
    """
    slots.check_prompt(len(prompt_ids))
    prompt = np.array(prompt_ids, np.int64)[None]  # [1, prompt]
    past = np.empty(1, np.int32)
    token = np.empty((1, 1), np.int64)
    ends = frozenset(end_ids)
    slot = slots.allocate()
    try:
        for start in range(0, prompt.shape[1], prefill_chunk):
            chunk = prompt[:, start : start + prefill_chunk]
            past[0] = slots.append(slot, chunk.shape[1])
            logits = backend.step(slot, chunk, past)
            if start + prefill_chunk < prompt.shape[1]:
                yield Step(None, None)
        left = min(max_tokens, slots.room(slot) + 1)  # the last id is never fed
        while True:
            chosen = choose(logits[0])
            left -= 1
            if chosen in ends:
                last = Step(chosen, "stop")
                break
            if left == 0:
                last = Step(chosen, "length")
                break
            yield Step(chosen, None)
            token[0, 0] = chosen
            past[0] = slots.append(slot, 1)
            logits = backend.step(slot, token, past)
    finally:
        slots.free(slot)
    yield last


class DecoderSession:
    """Generates text with one backend and its tokenizer. One generation a slot; not thread-safe."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        manifest: Manifest,
        *,
        prefill_chunk: int = PREFILL_CHUNK,
    ) -> None:
        """Begin with an empty cache.

        Args:
            backend: The engine.
            tokenizer: Of the same bundle.
            manifest: Of the same bundle; its end tokens, stop texts and sampling defaults are used.
            prefill_chunk: Tokens of the prompt in one step, at least 1.
        """
        self._backend = backend
        self._tokenizer = tokenizer
        self._manifest = manifest
        self._end_ids = frozenset(manifest.tokens.end)
        self._prefill_chunk = prefill_chunk
        self.slots = SlotTable(backend.slots, backend.capacity)

    def stream(
        self,
        prompt_ids: Sequence[int],
        options: GenerationOptions,
        *,
        continues: bool = False,
        encoding_seconds: float = 0.0,
    ) -> Generator[Piece, None, None]:
        """Generate text piece by piece; see `Piece`.

        Args:
            prompt_ids: As `generate_step` takes them.
            options: What to generate; ``raw`` leaves out the bundle's stop texts.
            continues: The answer continues the prompt's text; see `Detokenizer`.
            encoding_seconds: What making the prompt's ids took; part of the time to first token.

        Raises:
            ContextError: The prompt is empty or longer than the context.
            NoFreeSlotError: Every slot is held.
        """
        sampler = Sampler(
            options.sampling(self._manifest.defaults),
            prompt_ids,
            sampled_vocabulary=self._manifest.sampled_vocabulary,
        )
        steps = generate_step(
            self._backend,
            self.slots,
            prompt_ids,
            sampler.sample,
            max_tokens=options.max_tokens,
            end_ids=self._end_ids,
            prefill_chunk=self._prefill_chunk,
        )
        return pieces_of(
            steps,
            self._tokenizer.detokenizer(continues=continues),
            StopTexts(stop_texts(options, self._manifest.stop)),
            prompt_tokens=len(prompt_ids),
            encoding_seconds=encoding_seconds,
        )

    def score(self, prompt_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return what a scoring head gives at the last token: float32 [labels].

        Args:
            prompt_ids: As `generate_step` takes them.

        Raises:
            ContextError: The text is empty or longer than the context.
            NoFreeSlotError: Every slot is held.
        """
        found: list[NDArray[np.float32]] = []

        def keep(logits: NDArray[np.float32]) -> int:
            found.append(logits.copy())
            return 0

        # One choice is made, at the end of the prompt; nothing is fed after it.
        for _ in generate_step(
            self._backend,
            self.slots,
            prompt_ids,
            keep,
            max_tokens=1,
            prefill_chunk=self._prefill_chunk,
        ):
            pass
        return found[0]

    def generate(
        self, prompt_ids: Sequence[int], options: GenerationOptions, *, continues: bool = False
    ) -> Generation:
        """Generate a whole answer; arguments and errors are those of `stream`."""
        return collect(self.stream(prompt_ids, options, continues=continues))

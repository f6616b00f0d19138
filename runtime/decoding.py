"""One prompt on its way to an answer: what has been computed of it, and what may be shown.

Workflow: the scheduler feeds the prompt's tokens and gives `take` the logits after each step;
`take` chooses a token and makes a `Piece` of it. `publish`, when the step is over, puts what was
made into `pieces`, from where a consumer takes it.

Rules: everything that does not depend on a token is prepared at the beginning. A decoding belongs
to nobody's thread: whoever runs the step calls `take`, and a consumer sees nothing of a running
step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.admission import Standing
from edgewise.runtime.answer_text import next_text
from edgewise.runtime.detokenizer import Detokenizer
from edgewise.runtime.generation import FinishReason, Piece, Statistics
from edgewise.runtime.stop import StopTexts

if TYPE_CHECKING:  # what follows a format is loaded with the first one that is asked for
    from edgewise.runtime.constraint import Constraint
    from edgewise.runtime.log_probabilities import LogProbabilityRecorder
    from edgewise.runtime.speculation import Speculation

SINK_TOKENS = 4  # first tokens that are never forgotten

Choose = Callable[[NDArray[np.float32]], int]
"""Gives the next id for logits [vocabulary], float32; it must not keep the array."""


@dataclass
class Decoding:
    """See the module's docstring.

    Attributes:
        prompt: Token ids, at least one.
        choose: Gives the next id.
        detokenizer: Makes text of ids; None: pieces have no text.
        stop: Watches for stop texts.
        max_tokens: Ids to generate at most, at least 1. A full slot ends the answer as well.
        end_ids: Ids after which there is nothing more; the one that came is given out.
        constraint: What the answer must look like; None: anything. What it must begin with is
            computed with the prompt.
        note: Is told of tokens that the constraint has forced, so that nobody chose them.
        recorder: Tells log-probabilities; None: nobody asks for them. Forced tokens are then fed
            as drafts are, for each needs the logits before it.
        speculation: Drafts several tokens, which are checked together; None: nothing does.
        window: Tokens that the model sees at most; then all but the first few and the last half are
            forgotten, and the answer goes on. None: a full slot ends it.
        standing: What decides when it begins.
        seconds: Time spent on it so far: encoding, then every step while it was in work.
    """

    prompt: Sequence[int]
    choose: Choose
    detokenizer: Detokenizer | None = None
    stop: StopTexts = field(default_factory=lambda: StopTexts(()))
    max_tokens: int = 256
    end_ids: Collection[int] = ()
    constraint: Constraint | None = None
    note: Callable[[int], None] | None = None
    recorder: LogProbabilityRecorder | None = None
    speculation: Speculation | None = None
    window: int | None = None
    standing: Standing = field(default_factory=Standing)
    seconds: float = 0.0

    pieces: deque[Piece] = field(default_factory=deque, init=False)
    error: Exception | None = field(default=None, init=False)  # comes after the pieces
    slot: int | None = field(default=None, init=False)
    computed: int = field(default=0, init=False)  # tokens of the prompt whose keys are in the slot
    reused: int = field(default=0, init=False)  # of those, the ones another request had computed
    pending: tuple[int, ...] = field(default=(), init=False)  # of the answer, to be fed next
    agreed: int = field(default=0, init=False)  # of the last drafts, those that are the answer's
    cancelled: bool = field(default=False, init=False)
    _prompt_tokens: int = field(default=0, init=False)
    _guessed: int = field(default=0, init=False)  # of the last drafts, those of the speculation
    _beginning: tuple[int, ...] | None = field(default=None, init=False)  # forced; None: not asked
    _beginning_read: bool = field(default=False, init=False)  # it is fed as the prompt's end
    _due: deque[int] = field(default_factory=deque, init=False)  # forced, and not given out yet
    _made: list[Piece] = field(default_factory=list, init=False)
    _failure: Exception | None = field(default=None, init=False)
    _generated: int = field(default=0, init=False)
    _first_seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._prompt_tokens = len(self.prompt)

    @property
    def answer_room(self) -> int:
        """Tokens that a slot should have room for behind the prompt."""
        tokens = self.max_tokens - (len(self._beginning or ()) if self._beginning_read else 0)
        return tokens if self.window is None else min(tokens, self.window - len(self.prompt))

    @property
    def drafts(self) -> bool:
        """Whether `propose` may know what follows."""
        return self.constraint is not None or self.speculation is not None

    def begin(self, longest_prompt: int) -> None:
        """Read what the answer must begin with as the prompt's end; a second call does nothing.

        Args:
            longest_prompt: Tokens that a prompt may have. A longer one is left as it is, and so is
                one whose tokens are all told with their probabilities.
        """
        if self.constraint is None or self._beginning is not None:
            return
        self._beginning = self._forced(self.constraint)
        most = min(longest_prompt, self.window or longest_prompt)
        if (
            self.recorder is None
            and len(self._beginning) < self.max_tokens
            and len(self.prompt) + len(self._beginning) <= most
        ):
            self.prompt = [*self.prompt, *self._beginning]
            self._beginning_read = True

    def forget_middle(self, seen: Sequence[int], most: int) -> int:
        """Read on from the first tokens and the last half, as if they were a prompt.

        The first tokens draw attention whatever they are, without which a model loses its way
        (Xiao et al. 2023, arXiv:2309.17453). The last half is computed anew, at the positions at
        which it stands now, so that it takes no part in what was forgotten.

        Args:
            seen: Tokens in the slot, those to be fed next not among them.
            most: Tokens that the slot has room for.

        Returns:
            How many first tokens stay as they are.
        """
        text = [*seen, *self.pending]
        last = min(max(most // 2, len(self.pending)), most - SINK_TOKENS)
        self.prompt = text[:SINK_TOKENS] + text[-last:]
        self.pending = ()
        self.computed = SINK_TOKENS
        return SINK_TOKENS

    @property
    def in_prompt(self) -> bool:
        """Whether part of the prompt is still to be computed."""
        return self.computed < len(self.prompt)

    def note_chunk(self, tokens: int) -> None:
        """Note that the next tokens of the prompt were computed and more follow."""
        self.computed += tokens
        self._made.append(Piece("", ()))

    def propose(self, room: int) -> list[int]:
        """Return tokens that may follow those to be fed next, to be checked in the same step.

        Args:
            room: Tokens that can be fed, those to be fed next among them.
        """
        self.agreed = self._guessed = 0
        most = min(room - len(self.pending), self.max_tokens - self._generated - 1)
        if most < 1:
            return []
        if self._due:
            return list(self._due)[:most]
        if self.constraint is not None and (likely := self.constraint.likely()):
            return list(likely[:most])
        if self.speculation is None:
            return []
        drafts = self.speculation.propose(most)
        if self.constraint is not None and drafts:
            drafts = drafts[: self.constraint.possible(drafts)]
        self._guessed = len(drafts)
        return drafts

    def learn(self, *, fed: int, seconds: float) -> None:
        """Note what a step cost that may have checked a guess.

        Args:
            fed: Tokens that the model was fed.
            seconds: What it took, guessing included.
        """
        if self.speculation is not None:
            agreed = min(self.agreed, self._guessed)
            self.speculation.learn(fed=fed, drafted=self._guessed, agreed=agreed, seconds=seconds)

    def take(
        self, logits: NDArray[np.float32], room: int, seconds: float, drafts: Sequence[int] = ()
    ) -> bool:
        """Choose the next tokens: one, and one more for each drafted token that was chosen.

        Args:
            logits: [1 + drafts, vocabulary], float32, after the last token of prompt or answer and
                after each drafted one. May be overwritten.
            room: Tokens that can still be fed behind the drafts.
            seconds: What the present step has taken until now.
            drafts: Which were fed behind the answer's last token; `agreed` tells how many stay.

        Returns:
            Whether the answer has ended.
        """
        if self._generated == 0:
            self._first_seconds = self.seconds + seconds
        self.agreed = 0
        if self._generated == 0 and self._beginning_read and self._tell_beginning(room):
            return True
        while True:
            self.pending = self._next(logits[self.agreed])
            if self._give_out(logits[self.agreed], room + len(drafts) - self.agreed):
                return True
            right = _agreeing(self.pending, drafts[self.agreed :])
            self.agreed += right
            if right < len(self.pending):
                self.pending = self.pending[right:]
                return False

    def _tell_beginning(self, room: int) -> bool:
        """Give out what was read with the prompt; return whether the answer has ended."""
        self.pending = self._beginning or ()
        return self._give_out(np.empty(0, np.float32), room + len(self.pending))

    def _give_out(self, logits: NDArray[np.float32], room: int) -> bool:
        """Make pieces of the pending tokens; return whether the answer has ended."""
        most = self.max_tokens - self._generated
        if self.window is None:
            most = min(most, room + 1)  # the last id is never fed
        for count, token in enumerate(self.pending, 1):
            self._generated += 1
            finished: FinishReason | None = None
            if token in self.end_ids or (count == len(self.pending) and self._is_complete()):
                finished = "stop"
            elif count == most:
                finished = "length"
            text, finished = self._text(token, finished)
            piece = Piece(text, (token,), finished)
            if self.recorder is not None:
                told = self.recorder.of(token, float(logits[token]))
                piece = replace(piece, log_probabilities=(told,))
            self._made.append(piece)
            if finished is not None:
                return True
        if self.speculation is not None:
            self.speculation.follow(self.pending)
        return False

    def _next(self, logits: NDArray[np.float32]) -> tuple[int, ...]:
        """Return the tokens to give out and to feed together."""
        if self.recorder is not None:
            self.recorder.observe(logits)
        if not self._due:
            tokens = self._chosen(logits)
            if self.recorder is None:
                return tokens
            self._due.extend(tokens)
        return (self._due.popleft(),)

    def _chosen(self, logits: NDArray[np.float32]) -> tuple[int, ...]:
        """Return the next token, and those that must follow it."""
        if self.constraint is None:
            return (self.choose(logits),)
        if self._generated == 0 and self._beginning:
            return self._beginning
        self.constraint.apply(logits)
        token = self.choose(logits)
        if token in self.end_ids:
            return (token,)
        self.constraint.accept(token)
        return (token, *self._forced(self.constraint))

    def _forced(self, constraint: Constraint) -> tuple[int, ...]:
        tokens = constraint.forced()
        if self.note is not None:
            for token in tokens:
                self.note(token)
        return tokens

    def _is_complete(self) -> bool:
        return self.constraint is not None and self.constraint.complete and not self._due

    def begin_mask(self) -> None:
        """Begin to compute what may come next, while the engine computes what is likely."""
        if self.constraint is not None and not self._due:
            self.constraint.begin_mask()

    def _text(self, token: int, finished: FinishReason | None) -> tuple[str, FinishReason | None]:
        if self.detokenizer is None:
            return "", finished
        is_text = token not in self.end_ids
        return next_text(self.detokenizer, self.stop, token, finished, is_text=is_text)

    def fail(self, error: Exception) -> None:
        """End with an error, which the consumer gets after what was made before it."""
        self._failure = error

    def publish(self, seconds: float) -> bool:
        """Let the consumer see what a step has made.

        Args:
            seconds: What the step took.

        Returns:
            Whether there is anything new.
        """
        self.seconds += seconds
        if not self._made and self._failure is None:
            return False
        for piece in self._made:
            done = piece.finished is not None
            self.pieces.append(replace(piece, statistics=self._statistics()) if done else piece)
        self._made.clear()
        self.error = self._failure
        return True

    def _statistics(self) -> Statistics:
        return Statistics.measured(
            self._prompt_tokens,
            self._generated,
            first_seconds=self._first_seconds,
            seconds=self.seconds,
            reused_tokens=min(self.reused, self._prompt_tokens),
        )


def _agreeing(chosen: Sequence[int], drafts: Sequence[int]) -> int:
    """Return how many first tokens are equal."""
    for place, (token, draft) in enumerate(zip(chosen, drafts, strict=False)):
        if token != draft:
            return place
    return min(len(chosen), len(drafts))

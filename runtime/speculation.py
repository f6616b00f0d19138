"""The drafts of one answer: what is proposed, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence

from edgewise.runtime.draft_length import DraftLength, StepCosts
from edgewise.runtime.drafting import Drafter


class Speculation:
    """Proposes drafts for one answer as long as they pay; see drafting.py and draft_length.py."""

    def __init__(self, prompt: Sequence[int], drafter: Drafter, costs: StepCosts) -> None:
        """Begin.

        Args:
            prompt: Token ids.
            drafter: What guesses; one for each answer where it remembers anything.
            costs: Of the model's steps.
        """
        self._tokens = list(prompt)
        self._drafter = drafter
        self._costs = costs
        self._length = DraftLength(costs)

    def follow(self, tokens: Sequence[int]) -> None:
        """Note tokens of the answer."""
        self._tokens += tokens

    def propose(self, most: int) -> list[int]:
        """Return what may follow the tokens so far, at most so many; often nothing."""
        length = min(self._length.next(), most)
        return self._drafter.draft(self._tokens, length) if length > 0 else []

    def learn(self, *, fed: int, drafted: int, agreed: int, seconds: float) -> None:
        """Take what became of a step.

        Args:
            fed: Tokens that the model was fed.
            drafted: How many of them were a draft.
            agreed: How many of these, from the first, were right.
            seconds: What it took, drafting included.
        """
        self._costs.note(fed, seconds)
        if drafted:
            self._length.note(drafted, agreed)

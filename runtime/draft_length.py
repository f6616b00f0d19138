"""How many tokens to draft: as many as pay, measured while the model answers.

A step that checks a draft of k tokens costs more than one without, and gives k + 1 tokens only if
the model agrees with all of them. Both are measured: `StepCosts` keeps what steps of each width
cost on this machine, `DraftLength` how often an answer's drafts agree. With agreement a, a draft of
k gives (1 - a^(k+1)) / (1 - a) tokens on average (Leviathan et al. 2023, equation 1).

Rules: a length is only chosen if it gives more tokens in a second than no draft. Where none pays,
nothing is drafted for a while, then one short draft shows whether that has changed.
"""

from __future__ import annotations

# Of drafts, the ones that are tried. With the certain token before it the longest makes 8 rows,
# which kernels compute in whole tiles.
LENGTHS = (2, 4, 7)
FIRST_AGREEMENT = 0.7  # assumed before anything was measured
MEMORY = 0.8  # of the moving averages: how much of the past stays with each measurement
PAUSE = 32  # steps without a draft where none pays


class StepCosts:
    """Seconds of a step by the number of tokens that are fed; shared by all answers of a model."""

    def __init__(self) -> None:
        """Begin with nothing measured."""
        self._seconds: dict[int, float] = {}

    def note(self, tokens: int, seconds: float) -> None:
        """Take one measurement of a step that fed so many tokens, drafting included."""
        known = self._seconds.get(tokens)
        self._seconds[tokens] = (
            seconds if known is None else MEMORY * known + (1 - MEMORY) * seconds
        )

    def of(self, tokens: int) -> float | None:
        """Return the seconds of such a step; None: it was never measured."""
        return self._seconds.get(tokens)


class DraftLength:
    """The length of the next draft of one answer."""

    def __init__(self, costs: StepCosts) -> None:
        """Begin.

        Args:
            costs: Of the model's steps.
        """
        self._costs = costs
        self._agreement = FIRST_AGREEMENT
        self._pause = 0

    def next(self) -> int:
        """Return how many tokens to draft in this step, 0 where it would not pay."""
        if self._pause:
            self._pause -= 1
            return 0
        plain = self._costs.of(1)
        if plain is None:
            return 0  # the first step is the measure of all others
        rates = {0: 1 / plain}
        for length in LENGTHS:
            cost = self._costs.of(length + 1)
            if cost is None:
                return length  # never tried on this machine
            rates[length] = self._expected(length) / cost
        best = max(rates, key=lambda length: rates[length])
        if best == 0:
            # By the time it ends, the answer may have come to something that it quotes.
            self._pause = PAUSE
            self._agreement = max(self._agreement, 0.5)
            return LENGTHS[0]
        return best

    def note(self, drafted: int, agreed: int) -> None:
        """Take what became of a draft: how many of its first tokens the model agreed with."""
        tried = min(agreed + 1, drafted)
        for place in range(tried):
            hit = 1.0 if place < agreed else 0.0
            self._agreement = MEMORY * self._agreement + (1 - MEMORY) * hit

    def _expected(self, length: int) -> float:
        """Return the tokens that a step with a draft gives on average."""
        if self._agreement >= 1.0:
            return length + 1.0
        return float((1 - self._agreement ** (length + 1)) / (1 - self._agreement))

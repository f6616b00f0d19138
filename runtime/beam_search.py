"""Beam search and diverse beam search over rows of log-probabilities. Knows no engine and no text.

Workflow: a search begins with one empty hypothesis, row 0. Each step, the caller computes what may
follow the active hypotheses, gives `advance` a row of log-probabilities for each, and gets back
which row each new row continues, and by which token: it copies what it keeps of rows, feeds the
tokens, and comes back, until there are no rows any more. `best` lists what was found.

Definitions
- *Score*: log P(tokens) / tokens ** length_penalty, the end token counted, the prompt not. It is
  what transformers calls ``sequences_scores``. Sums are float64.
- *Beams*: hypotheses that are active at once. Each step looks at the beams' continuations in the
  order of log P, as far down as beams * (1 + end tokens), so that enough are left when every beam
  could end. Of those, the first `beams` that end go into the pool, which keeps the `beams` of the
  best score; the first `beams` that do not end are the new active hypotheses. What has reached
  ``max_tokens`` ends, too. Equals are ordered by token id, then by the order of their beams.
- *The end* comes when nothing is active, or when the pool is full and the rule says so:
  - "first": at once (transformers' ``early_stopping=True``);
  - "likely": when the best active hypothesis, with the score that it has at its present length,
    is not better than the worst of the pool (``early_stopping=False``). With a positive length
    penalty this may give up a hypothesis whose score a longer answer would have raised;
  - "never": when no continuation of it can become better than the worst of the pool, whatever
    follows (``early_stopping="never"``): log P only falls, so its bound is its present log P over
    max_tokens ** length_penalty when that is positive, and over the present length otherwise.
- *Groups* (diverse beam search, Vijayakumar et al., arXiv 1610.02424, with their Hamming distance):
  beams / groups hypotheses each, each group a search with a pool of its own. In every step the
  groups choose in order, and a token costs ``diversity_penalty`` for each time that an earlier
  group has chosen it in this step without an end. As in the authors' code the penalties add up
  over the steps, and decide which hypotheses are kept; scores are without them. What several
  groups have found is listed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.generation import FinishReason

StopRule = Literal["first", "likely", "never"]


@dataclass(frozen=True)
class BeamSettings:
    """What to search for; `GenerationOptions` has checked the numbers.

    Attributes:
        beams: Hypotheses that are active at once, all groups together.
        max_tokens: Tokens of an answer at most, its end token included.
        end_ids: Tokens that end an answer.
        groups: Divides ``beams``.
        diversity_penalty: See the module's docstring.
        length_penalty: Likewise; 0: none, above: longer answers gain.
        stop_rule: When a full pool ends the search.
    """

    beams: int
    max_tokens: int
    end_ids: frozenset[int]
    groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    stop_rule: StopRule = "likely"


@dataclass(frozen=True)
class Hypothesis:
    """A finished answer.

    Attributes:
        token_ids: With the end token, if it has one.
        log_probability: The sum of its tokens', natural logarithm.
        score: ``log_probability`` over its tokens to the power of the length penalty.
        finished: "stop" if it ended by itself, "length" if at ``max_tokens``.
    """

    token_ids: tuple[int, ...]
    log_probability: float
    score: float
    finished: FinishReason


class Rows(NamedTuple):
    """The active hypotheses after a step, a row each; none: the search is over.

    Attributes:
        parents: int64 [rows], the row of the step before that each continues. A row continues
            itself wherever that is possible, so rows that do not may be overwritten one by one.
        token_ids: int64 [rows], the token that each continues it by.
    """

    parents: NDArray[np.int64]
    token_ids: NDArray[np.int64]


@dataclass
class _Active:
    """A hypothesis that may go on."""

    token_ids: tuple[int, ...]
    log_probability: float
    value: float  # what it is chosen by: the log-probability less the penalties
    row: int


@dataclass
class _Group:
    """Beams that are searched together."""

    active: list[_Active]
    pool: list[Hypothesis] = field(default_factory=list)


class BeamSearch:
    """One search; see the module's docstring."""

    def __init__(
        self, settings: BeamSettings, ends: Callable[[Sequence[int]], bool] = lambda _: False
    ) -> None:
        """Begin with the empty hypothesis.

        Args:
            settings: What to search for.
            ends: Tells whether an answer with these tokens has ended by other means than its last
                token's id, such as a stop text.
        """
        self._settings = settings
        self._ends = ends
        self._width = settings.beams // settings.groups
        self._length = 0
        self._groups = [_Group([_Active((), 0.0, 0.0, 0)]) for _ in range(settings.groups)]

    @property
    def length(self) -> int:
        """How many tokens each active hypothesis has."""
        return self._length

    @property
    def active(self) -> list[tuple[int, ...]]:
        """The tokens of each row."""
        rows = {one.row: one.token_ids for group in self._groups for one in group.active}
        return [rows[row] for row in sorted(rows)]

    def advance(self, log_probabilities: NDArray[np.float64]) -> Rows:
        """Take a step.

        Args:
            log_probabilities: [rows, vocabulary], what may follow each row; -inf: never.
        """
        self._length += 1
        used: Counter[int] = Counter()
        for group in self._groups:
            if group.active:
                used.update(self._advance(group, log_probabilities, used))
        active = [one for group in self._groups for one in group.active]
        parents = _keep_in_place(active)
        return Rows(
            np.asarray(parents, np.int64),
            np.asarray([ids[-1] for ids in self.active], np.int64),
        )

    def best(self, count: int | None = None) -> list[Hypothesis]:
        """Return the finished answers, the best score first, equals by their tokens."""
        found = {one.token_ids: one for group in self._groups for one in group.pool}
        return sorted(found.values(), key=_rank)[:count]

    def _advance(
        self, group: _Group, log_probabilities: NDArray[np.float64], used: Counter[int]
    ) -> list[int]:
        """Take a group's step; return the tokens that it chose and that ended nothing."""
        settings, width = self._settings, self._width
        rows = log_probabilities[[one.row for one in group.active]]
        values = rows + np.asarray([one.value for one in group.active])[:, None]
        for token_id, times in used.items():
            values[:, token_id] -= settings.diversity_penalty * times
        following: list[_Active] = []
        chosen: list[int] = []
        is_last = self._length == settings.max_tokens
        most = width * max(2, 1 + len(settings.end_ids))
        for rank, (beam, token_id) in enumerate(_largest(values, most)):
            if rank >= width and len(following) == width:
                break
            before = group.active[beam]
            token_ids = (*before.token_ids, token_id)
            log_probability = before.log_probability + float(rows[beam, token_id])
            ended = token_id in settings.end_ids or self._ends(token_ids)
            if not ended and len(chosen) < width:
                chosen.append(token_id)
            if (ended or is_last) and rank < width:
                score = log_probability / self._length**settings.length_penalty
                finished: FinishReason = "stop" if ended else "length"
                group.pool.append(Hypothesis(token_ids, log_probability, score, finished))
            elif not ended and not is_last and len(following) < width:
                value = float(values[beam, token_id])
                following.append(_Active(token_ids, log_probability, value, before.row))
        group.pool = sorted(group.pool, key=_rank)[:width]
        group.active = [] if self._is_over(group, following) else following
        return chosen

    def _is_over(self, group: _Group, following: Sequence[_Active]) -> bool:
        settings = self._settings
        if not following or len(group.pool) < self._width:
            return not following
        if settings.stop_rule == "first":
            return True
        length = self._length
        if settings.stop_rule == "never" and settings.length_penalty > 0:
            length = settings.max_tokens
        likeliest = max(one.log_probability for one in following)
        return bool(likeliest / length**settings.length_penalty <= group.pool[-1].score)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the natural logarithms of probabilities: [rows, vocabulary] of logits, -inf: never."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _largest(values: NDArray[np.float64], count: int) -> Iterable[tuple[int, int]]:
    """Return the row and column of the largest values; equals by column, then by row."""
    flat = values.reshape(-1)
    if count < len(flat):
        least = np.partition(flat, len(flat) - count)[len(flat) - count]
        places = np.flatnonzero(flat >= least)
    else:
        places = np.arange(len(flat))
    places = places[flat[places] > -np.inf]
    rows, columns = np.divmod(places, values.shape[1])
    order = np.lexsort((rows, columns, -flat[places]))[:count]
    return zip(rows[order].tolist(), columns[order].tolist(), strict=True)


def _keep_in_place(active: Sequence[_Active]) -> list[int]:
    """Give each hypothesis a row, that of its parent where it can be; return each row's parent."""
    parents = [one.row for one in active]
    rows: dict[int, _Active] = {}
    moved = []
    for one in active:
        if one.row < len(active) and one.row not in rows:
            rows[one.row] = one
        else:
            moved.append(one)
    free = (row for row in range(len(active)) if row not in rows)
    result = list(range(len(parents)))
    for one, row in zip(moved, free, strict=True):
        result[row] = one.row
        one.row = row
    return result


def _rank(hypothesis: Hypothesis) -> tuple[float, tuple[int, ...]]:
    return -hypothesis.score, hypothesis.token_ids

"""Beam search against exhaustive search, and against a plain search that was written apart."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.beam_search import BeamSearch, BeamSettings, log_softmax

END = 0


class Table:
    """A model whose log-probabilities are drawn anew for every history, and never forgotten."""

    def __init__(self, vocabulary, seed, spread=3.0):
        self.vocabulary = vocabulary
        self._random = np.random.default_rng(seed)
        self._spread = spread
        self._rows = {}

    def after(self, history):
        if history not in self._rows:
            logits = self._random.normal(0, self._spread, (1, self.vocabulary))
            self._rows[history] = log_softmax(logits.astype(np.float32))[0]
        return self._rows[history]


def search(table, given, ends=lambda _: False):
    """Run a search as a session does, with caches that are copied only where it says so."""
    beams = BeamSearch(given, ends)
    caches = [()]
    while caches:
        assert beams.active == caches
        rows = beams.advance(np.stack([table.after(cache) for cache in caches]))
        caches += [None] * (len(rows.parents) - len(caches))
        for row, parent in enumerate(rows.parents.tolist()):
            if parent != row:
                caches[row] = caches[parent]  # one by one, in any order: see the next test
        del caches[len(rows.parents) :]
        caches = [
            (*cache, token) for cache, token in zip(caches, rows.token_ids.tolist(), strict=True)
        ]
    return beams.best()


def all_answers(table, longest, length_penalty):
    """Return every answer with its score, the best first."""
    answers = []
    for length in range(1, longest + 1):
        for body in itertools.product(range(1, table.vocabulary), repeat=length - 1):
            ends = range(table.vocabulary) if length == longest else (END,)
            for last in ends:
                ids = (*body, last)
                total = sum(table.after(ids[:at])[ids[at]] for at in range(length))
                answers.append((total / length**length_penalty, ids))
    return sorted(answers, key=lambda answer: (-answer[0], answer[1]))


@pytest.mark.parametrize("stop_rule", ["first", "likely", "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize(("vocabulary", "longest"), [(4, 5), (5, 4), (6, 3), (2, 5)])
def test_as_many_beams_as_answers_find_the_best_of_all(
    vocabulary, longest, length_penalty, stop_rule
):
    table = Table(vocabulary, seed=vocabulary * longest)
    expected = all_answers(table, longest, length_penalty)
    given = BeamSettings(
        vocabulary**longest,
        longest,
        frozenset([END]),
        length_penalty=length_penalty,
        stop_rule=stop_rule,
    )
    found = search(table, given)
    assert len(found) == len(expected) == len({one.token_ids for one in found})
    assert [one.token_ids for one in found] == [ids for _, ids in expected]
    assert [one.score for one in found] == pytest.approx([score for score, _ in expected])


def reference(table, beams, longest, ends, length_penalty, rule, groups=1, diversity=0.0):
    """Search as the definition reads: sets of (value, log-probability, tokens), sorted again."""
    width = beams // groups
    active = [[(0.0, 0.0, ())] for _ in range(groups)]
    pools = [[] for _ in range(groups)]
    for length in range(1, longest + 1):
        chosen = []
        for group in range(groups):
            continuations = []
            for order, (value, log_p, ids) in enumerate(active[group]):
                for token, more in enumerate(table.after(ids)):
                    cost = diversity * chosen.count(token)
                    continuations.append((-(value + more - cost), token, order, log_p + more, ids))
            continuations = sorted(continuations)[: width * max(2, 1 + len(ends))]
            active[group], tokens = [], []
            for rank, (value, token, _, log_p, ids) in enumerate(continuations):
                if token not in ends and len(tokens) < width:
                    tokens.append(token)
                if token in ends or length == longest:
                    if rank < width:
                        pools[group].append((-log_p / length**length_penalty, (*ids, token)))
                elif len(active[group]) < width:
                    active[group].append((-value, log_p, (*ids, token)))
            pools[group] = sorted(pools[group])[:width]
            chosen += tokens
            if active[group] and len(pools[group]) == width:
                best = max(log_p for _, log_p, _ in active[group])
                over = longest if rule == "never" and length_penalty > 0 else length
                bound = best / over**length_penalty
                if rule == "first" or bound <= -pools[group][-1][0]:
                    active[group] = []
    return sorted(set(itertools.chain(*pools)))


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    vocabulary=st.integers(3, 6),
    longest=st.integers(1, 6),
    width=st.integers(1, 5),
    groups=st.integers(1, 4),
    diversity=st.floats(0.01, 3),
    ends=st.sets(st.integers(0, 2), min_size=0, max_size=2),
    length_penalty=st.sampled_from([-1.0, 0.0, 0.7, 1.0, 2.5]),
    rule=st.sampled_from(["first", "likely", "never"]),
    spread=st.sampled_from([0.0, 0.5, 3.0]),  # 0: everything is equal
)
def test_few_beams_find_what_the_definition_finds(
    seed, vocabulary, longest, width, groups, diversity, ends, length_penalty, rule, spread
):
    table = Table(vocabulary, seed, spread)
    given = BeamSettings(
        width * groups, longest, frozenset(ends), groups, diversity, length_penalty, rule
    )
    found = search(table, given)
    expected = reference(
        table, width * groups, longest, ends, length_penalty, rule, groups, diversity
    )
    assert [one.token_ids for one in found] == [ids for _, ids in expected]
    assert [-one.score for one in found] == pytest.approx([score for score, _ in expected])
    for one in found:
        log_p = sum(
            table.after(one.token_ids[:at])[token] for at, token in enumerate(one.token_ids)
        )
        assert one.log_probability == pytest.approx(log_p)
        assert one.finished == ("stop" if one.token_ids[-1] in ends else "length")
        assert not set(one.token_ids[:-1]) & ends


@pytest.mark.parametrize("seed", range(20))
def test_never_finds_no_worse_than_likely_and_that_no_worse_than_first(seed):
    table = Table(6, seed)
    scores = [
        search(table, BeamSettings(3, 8, frozenset([END]), length_penalty=1.5, stop_rule=rule))[
            0
        ].score
        for rule in ("never", "likely", "first")
    ]
    assert scores == sorted(scores, reverse=True)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), width=st.integers(1, 4), groups=st.integers(1, 3))
def test_rows_can_be_copied_one_by_one_in_any_order(seed, width, groups):
    """No row that another needs is overwritten, and a hypothesis that goes on alone stays."""
    table = Table(5, seed)
    beams = BeamSearch(BeamSettings(width * groups, 6, frozenset([END]), groups, 0.5))
    rows = 1
    while rows:
        step = beams.advance(np.stack([table.after(ids) for ids in beams.active]))
        moved = [row for row, parent in enumerate(step.parents) if parent != row]
        assert not set(moved) & set(step.parents.tolist())
        assert all(parent < rows for parent in step.parents)
        rows = len(step.parents)
        stays = {parent for parent in step.parents.tolist() if parent < rows}
        assert all(step.parents[parent] == parent for parent in stays)


def test_groups_avoid_what_earlier_groups_chose():
    """With a penalty over every difference, groups of one begin with different tokens."""
    table = Table(6, seed=3, spread=1.0)
    found = search(table, BeamSettings(5, 1, frozenset(), 5, 50.0))
    assert sorted(one.token_ids[0] for one in found) == sorted(
        np.argsort(-table.after(()))[:5].tolist()
    )
    alike = search(table, BeamSettings(5, 1, frozenset(), 5, 0.0))
    assert [one.token_ids[0] for one in alike] == [int(table.after(()).argmax())]


def test_scores_are_without_the_penalty_that_chose():
    table = Table(4, seed=1)
    for one in search(table, BeamSettings(4, 3, frozenset([END]), 2, 2.0, 0.0)):
        log_p = sum(
            table.after(one.token_ids[:at])[token] for at, token in enumerate(one.token_ids)
        )
        assert one.score == one.log_probability == pytest.approx(log_p)


def test_an_answer_may_end_by_other_means_than_a_token():
    table = Table(4, seed=5)
    found = search(
        table,
        BeamSettings(64, 3, frozenset([END])),
        ends=lambda ids: tuple(ids[-2:]) == (2, 3),
    )
    assert any(one.token_ids == (2, 3) and one.finished == "stop" for one in found)
    assert not any(one.token_ids[:2] == (2, 3) and len(one.token_ids) > 2 for one in found)


def test_tokens_that_are_never_chosen():
    class Masked(Table):
        def after(self, history):
            row = super().after(history).copy()
            row[[1, 3]] = -np.inf
            return row

    found = search(Masked(4, seed=0), BeamSettings(9, 3, frozenset([END])))
    assert {token for one in found for token in one.token_ids} == {0, 2}
    assert len(found) == 4  # 0, 20, 220 and 222
    assert all(math.isfinite(one.score) for one in found)


def test_best_gives_as_many_as_asked_for():
    table = Table(5, seed=2)
    beams = BeamSearch(BeamSettings(4, 1, frozenset()))
    beams.advance(table.after(())[None])
    assert beams.best(2) == beams.best()[:2]
    assert len(beams.best()) == 4
    assert len(beams.best(9)) == 4


def test_logarithms_of_probabilities():
    logits = np.asarray([[1.0, 2.0, -np.inf], [1000.0, 1000.0, -1000.0]], np.float32)
    actual = log_softmax(logits)
    assert actual.dtype == np.float64
    total = math.e + math.e**2
    assert np.exp(actual) == pytest.approx(
        np.asarray([[math.e / total, math.e**2 / total, 0], [0.5, 0.5, 0]])
    )

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgewise.runtime.options import SamplingSettings
from edgewise.runtime.penalties import Penalties
from edgewise.runtime.sampling import LogitsError, Sampler, filtered_weights


def reference_distribution(
    logits, *, temperature, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, near=1e-9
):
    """The rules of the module's docstring, one token at a time; None: too near a border."""
    scores = [float(value) / temperature for value in logits]
    kept = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    if 0 < top_k < len(kept):
        kept = [token for token in kept if scores[token] >= scores[kept[top_k - 1]]]
    top = scores[kept[0]]
    total = math.fsum(math.exp(scores[token] - top) for token in kept)
    probabilities = {token: math.exp(scores[token] - top) / total for token in kept}
    if top_p < 1.0:
        mass, nucleus = 0.0, []
        for token in kept:
            if abs(mass - top_p) < near:
                return None
            if mass >= top_p:
                break
            nucleus.append(token)
            mass += probabilities[token]
        kept = nucleus
    if min_p > 0:
        limit = min_p * probabilities[kept[0]]
        if any(abs(probabilities[token] - limit) < near for token in kept):
            return None
        kept = [token for token in kept if probabilities[token] >= limit]
    if typical_p < 1.0:
        kept = typical(kept, probabilities, typical_p, near)
        if kept is None:
            return None
    mass = math.fsum(probabilities[token] for token in kept)
    return {token: probabilities[token] / mass for token in kept}


def typical(kept, probabilities, typical_p, near):
    """Locally typical sampling as the paper has it, and ties with the last token."""
    kept = [token for token in kept if probabilities[token] > 0]
    total = math.fsum(probabilities[token] for token in kept)
    surprise = {token: -math.log(probabilities[token] / total) for token in kept}
    entropy = math.fsum(probabilities[token] / total * surprise[token] for token in kept)
    distance = {token: abs(surprise[token] - entropy) for token in kept}
    mass, border = 0.0, 0.0
    for token in sorted(kept, key=lambda token: distance[token]):
        if abs(mass - typical_p) < near:
            return None
        if mass >= typical_p:
            break
        border = distance[token]
        mass += probabilities[token] / total
    gaps = [distance[token] - border for token in kept]
    if any(0 < abs(gap) < near for gap in gaps):
        return None
    return [token for token, gap in zip(kept, gaps, strict=True) if gap <= 0]


@st.composite
def cases(draw):
    scale = draw(st.sampled_from([0.25, 1.0, 8.0]))
    size = draw(st.integers(1, 40))
    values = draw(st.lists(st.integers(-40, 40), min_size=size, max_size=size))
    return (
        np.array(values, np.float32) * np.float32(scale),
        {
            "temperature": draw(st.sampled_from([0.1, 0.5, 1.0, 1.7, 50.0])),
            "top_k": draw(st.sampled_from([0, 1, 2, 5, 20, 1000])),
            "top_p": draw(st.sampled_from([1.0, 0.95, 0.7, 0.3, 0.01])),
            "min_p": draw(st.sampled_from([0.0, 0.01, 0.2, 1.0])),
            "typical_p": draw(st.sampled_from([1.0, 0.95, 0.5, 0.2, 0.01])),
        },
    )


@settings(max_examples=300, deadline=None)
@given(cases())
def test_filters_against_brute_force(case):
    logits, values = case
    expected = reference_distribution(logits, **values)
    assume(expected is not None)
    ids, weights = filtered_weights(logits, SamplingSettings(**values))
    assert len(set(ids.tolist())) == len(ids)
    assert weights.max() == 1.0 or values["typical_p"] < 1.0
    actual = dict(zip(ids.tolist(), (weights / weights.sum()).tolist(), strict=True))
    assert actual.keys() == expected.keys()
    for token, probability in expected.items():
        assert actual[token] == pytest.approx(probability, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_nucleus_of_a_large_vocabulary(spread, top_p):
    """Deeper than the first sorted block, and with many ties."""
    generator = np.random.default_rng(5)
    logits = (generator.standard_normal(5000) * spread).astype(np.float32).round(2)
    ids, _ = filtered_weights(logits, SamplingSettings(temperature=1.0, top_p=top_p))
    expected = reference_distribution(logits, temperature=1.0, top_p=top_p, near=0.0)
    assert expected is not None
    assert set(ids.tolist()) == expected.keys()


def chi_square(counts, probabilities, draws):
    return sum(
        (counts.get(token, 0) - draws * probability) ** 2 / (draws * probability)
        for token, probability in probabilities.items()
    )


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 1.0},
        {"temperature": 0.6, "top_k": 6},
        {"temperature": 1.3, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.1},
        {"temperature": 0.9, "top_k": 9, "top_p": 0.9, "min_p": 0.02},
        {"temperature": 1.2, "typical_p": 0.7},
    ],
)
def test_frequencies_are_those_of_the_exact_distribution(values):
    logits = (np.random.default_rng(1).standard_normal(16) * 1.5).astype(np.float32)
    expected = reference_distribution(logits, **values)
    assert expected is not None
    draws = 20_000
    sampler = Sampler(SamplingSettings(**values, seed=7))
    counts: dict[int, int] = {}
    for _ in range(draws):
        token = sampler.sample(logits)
        counts[token] = counts.get(token, 0) + 1
    assert counts.keys() <= expected.keys()
    freedom = len(expected) - 1
    # Wilson and Hilferty's approximation of the chi-square quantile at five sigma (p = 3e-7).
    limit = freedom * (1 - 2 / (9 * freedom) + 5 * math.sqrt(2 / (9 * freedom))) ** 3
    assert chi_square(counts, expected, draws) < limit


def test_greedy_takes_the_lowest_of_equals():
    assert Sampler(SamplingSettings()).sample(np.array([1, 3, 3, 2], np.float32)) == 1


def test_greedy_ignores_the_filters():
    logits = np.array([0.1, 0.9, 0.8], np.float32)
    sampler = Sampler(SamplingSettings(temperature=0, top_k=3, top_p=0.5, min_p=0.9))
    assert {sampler.sample(logits) for _ in range(20)} == {1}


def test_typical_can_leave_the_likeliest_out():
    """The entropy is 2.70 bits; the likeliest has a surprise of 1.22, the others of 3.81 bits."""
    logits = np.log(np.array([6.0] + [1.0] * 8)).astype(np.float32)
    ids, weights = filtered_weights(logits, SamplingSettings(temperature=1.0, typical_p=0.3))
    assert ids.tolist() == list(range(1, 9))
    assert weights.tolist() == pytest.approx([1 / 6] * 8)


@pytest.mark.filterwarnings("error")
def test_typical_ignores_the_impossible():
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)
    ids, _ = filtered_weights(logits, SamplingSettings(temperature=1.0, typical_p=0.9))
    assert ids.tolist() == [1, 3]


@pytest.mark.parametrize("typical_p", [0.1, 0.5, 0.95])
def test_typical_of_a_large_vocabulary(typical_p):
    generator = np.random.default_rng(6)
    logits = (generator.standard_normal(5000) * 0.3).astype(np.float32)
    ids, _ = filtered_weights(logits, SamplingSettings(temperature=1.0, typical_p=typical_p))
    expected = reference_distribution(logits, temperature=1.0, typical_p=typical_p, near=0.0)
    assert set(ids.tolist()) == expected.keys()


def test_penalty_covers_prompt_and_answer():
    logits = np.array([1.0, 3.0, 2.9, 2.8], np.float32)
    sampler = Sampler(SamplingSettings(repetition_penalty=1.5), prompt_ids=[1, 1])
    assert [sampler.sample(logits) for _ in range(4)] == [2, 3, 1, 1]


def test_what_came_without_being_chosen_is_penalized_too():
    logits = np.array([3.0, 2.9, 2.8], np.float32)
    sampler = Sampler(SamplingSettings(presence_penalty=1.0))
    sampler.note(0)
    assert [sampler.sample(logits) for _ in range(2)] == [1, 2]


@settings(max_examples=100, deadline=None)
@given(cases(), st.floats(0.2, 5.0), st.lists(st.integers(0, 39), max_size=10))
def test_the_penalty_comes_before_everything_else(case, penalty, seen):
    logits, values = case
    seen = [token for token in seen if token < len(logits)]
    penalized = logits.copy()
    for token in set(seen):
        value = penalized[token]
        penalized[token] = value * penalty if value < 0 else value / penalty
    for seed in range(3):
        first = Sampler(SamplingSettings(**values, repetition_penalty=penalty, seed=seed), seen)
        second = Sampler(SamplingSettings(**values, seed=seed))
        assert first.sample(logits) == second.sample(penalized)


def test_a_seed_repeats_and_none_does_not():
    logits = np.zeros(1000, np.float32)

    def draw(seed):
        sampler = Sampler(SamplingSettings(temperature=1.0, seed=seed))
        return [sampler.sample(logits) for _ in range(20)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert draw(2**64 - 1) == draw(2**64 - 1)
    assert draw(None) != draw(None)


def test_a_seed_means_the_same_for_ever():
    logits = np.linspace(-1, 1, 50, dtype=np.float32)
    sampler = Sampler(SamplingSettings(temperature=1.0, top_p=0.9, seed=42))
    assert [sampler.sample(logits) for _ in range(8)] == [26, 39, 22, 30, 48, 14, 27, 26]


@pytest.mark.parametrize("temperature", [1e-320, 1e-12, 1e-6, 100.0])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 3e38])
@pytest.mark.filterwarnings("error")
def test_extreme_values_stay_numbers(temperature, scale):
    logits = np.array([-1.0, 0.5, 1.0, -0.25], np.float32) * np.float32(scale)
    sampler = Sampler(SamplingSettings(temperature=temperature, top_p=0.9, min_p=0.01, seed=0))
    tokens = {sampler.sample(logits) for _ in range(50)}
    assert tokens <= {0, 1, 2, 3}
    if scale >= 1.0 and temperature < 1e-3:
        assert tokens == {2}


@pytest.mark.filterwarnings("error")
def test_minus_infinity_is_never_chosen():
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)
    sampler = Sampler(SamplingSettings(temperature=100.0, seed=0))
    assert {sampler.sample(logits) for _ in range(200)} == {1, 3}


@pytest.mark.parametrize("values", [{}, {"temperature": 1.0}, {"repetition_penalty": 1.1}])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers(values, bad):
    logits = np.zeros(5, np.float32)
    logits[3] = bad
    with pytest.raises(LogitsError, match="largest logit"):
        Sampler(SamplingSettings(**values)).sample(logits)
    with pytest.raises(LogitsError, match="-inf"):
        Sampler(SamplingSettings(**values)).sample(np.full(5, -np.inf, np.float32))


def test_sampling_leaves_the_logits_alone():
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    logits.flags.writeable = False
    Sampler(
        SamplingSettings(
            temperature=0.5,
            top_k=2,
            top_p=0.9,
            typical_p=0.9,
            repetition_penalty=2.0,
            frequency_penalty=1.0,
            logit_bias={1: 2.0},
            dry_multiplier=1.0,
        ),
        [0, 1, 2, 0, 1, 2],
    ).sample(logits)


def test_nothing_is_copied_while_nothing_changes_a_logit(monkeypatch):
    def refuse(*_):
        raise AssertionError("logits are changed")

    monkeypatch.setattr(Penalties, "apply", refuse)
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    assert Sampler(SamplingSettings(), [0, 1]).sample(logits) == 2
    Sampler(SamplingSettings(temperature=1.0, top_k=2, typical_p=0.5), [0, 1]).sample(logits)
    with pytest.raises(AssertionError, match="are changed"):
        Sampler(SamplingSettings(logit_bias={2: 0.0}), [0, 1]).sample(logits)

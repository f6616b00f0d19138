"""Answers with drafts are those without, for any draft, any sampling and any format."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.backends.fake_bundle import write_fake_bundle, write_fake_sequence_bundle
from edgewise.runtime.decoding import Decoding
from edgewise.runtime.draft_length import StepCosts
from edgewise.runtime.loading import load
from edgewise.runtime.options import GenerationOptions, OptionsError, SamplingSettings
from edgewise.runtime.output_format import OutputFormat
from edgewise.runtime.sampling import Sampler
from edgewise.runtime.scheduler import Scheduler
from edgewise.runtime.slot_pool import SlotPool
from edgewise.runtime.speculation import Speculation

VOCABULARY = 40
REPLY = "The capital of France is Paris 🙂."


class Oracle:
    """Drafts what the answer is known to be, with faults at some places."""

    def __init__(self, text, faults, length):
        self.text, self.faults, self.length = list(text), set(faults), length

    def draft(self, tokens, most):
        start = len(tokens)
        right = self.text[start : start + min(most, self.length)]
        return [
            (token + 1) % VOCABULARY if start + place in self.faults else token
            for place, token in enumerate(right)
        ]


def run(prompt, *, drafter=None, choose=None, capacity=64, max_tokens=20, end_ids=()):
    backend = FakeBackend(vocabulary_size=VOCABULARY, slots=1, capacity=capacity)
    scheduler = Scheduler(backend, SlotPool(1, capacity))
    speculation = None if drafter is None else Speculation(prompt, drafter, StepCosts())
    decoding = Decoding(
        prompt,
        choose or (lambda logits: int(logits.argmax())),
        max_tokens=max_tokens,
        end_ids=end_ids,
        speculation=speculation,
    )
    pieces = list(scheduler.run(decoding))
    ids = [token for piece in pieces for token in piece.token_ids]
    return ids, pieces[-1].finished, backend, scheduler


@settings(max_examples=200, deadline=None)
@given(
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12),
    faults=st.sets(st.integers(0, 40)),
    length=st.integers(1, 8),
    max_tokens=st.integers(1, 25),
    capacity=st.integers(12, 40),
    end_ids=st.sets(st.integers(0, VOCABULARY - 1), max_size=2),
)
def test_whatever_is_drafted_the_answer_is_the_same(
    prompt, faults, length, max_tokens, capacity, end_ids
):
    limits = {"max_tokens": max_tokens, "capacity": capacity, "end_ids": end_ids}
    expected, reason, _, _ = run(prompt, **limits)
    oracle = Oracle([*prompt, *expected], faults, length)
    actual, finished, _, scheduler = run(prompt, drafter=oracle, **limits)
    assert (actual, finished) == (expected, reason)
    assert scheduler.pool.free_slots == 1
    # What the slot keeps is right: the same prompt goes on from it.
    again = Decoding(prompt, lambda logits: int(logits.argmax()), max_tokens=max_tokens)
    again.end_ids = end_ids
    pieces = list(scheduler.run(again))
    assert [token for piece in pieces for token in piece.token_ids] == expected


def test_right_drafts_save_steps():
    expected, _, plain, _ = run([1, 2, 3])
    actual, _, drafted, _ = run([1, 2, 3], drafter=Oracle([1, 2, 3, *expected], (), 8))
    assert actual == expected
    assert drafted.steps < plain.steps / 2


@pytest.mark.parametrize("seed", range(5))
def test_sampled_tokens_are_those_of_the_same_seed_without_drafts(seed):
    def sampler():
        settings = SamplingSettings(temperature=1.2, seed=seed)
        return Sampler(settings, [1, 2], sampled_vocabulary=VOCABULARY).sample

    expected, *_ = run([1, 2], choose=sampler())
    drafter = Oracle([1, 2, *expected], {4, 9}, 8)
    assert run([1, 2], choose=sampler(), drafter=drafter)[0] == expected


def test_the_distribution_of_sampled_tokens_is_the_models():
    """Chi-square of the second token, whose draft is always the same, against its probabilities."""
    backend = FakeBackend(vocabulary_size=VOCABULARY)
    first = int(backend.logits_after([5]).argmax())
    logits = backend.logits_after([5, first]).astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    likely = int(probabilities.argmax())
    counts = np.zeros(VOCABULARY)
    trials = 4000
    for seed in range(trials):
        settings = SamplingSettings(temperature=1.0, seed=seed)
        sampler = Sampler(settings, [5], sampled_vocabulary=VOCABULARY)
        chosen = iter([first])
        ids, *_ = run(
            [5],
            choose=lambda row, chosen=chosen, sampler=sampler: (
                next(chosen, None) or sampler.sample(row)
            ),
            drafter=Oracle([5, first, likely, 0], (), 2),
            max_tokens=3,
        )
        counts[ids[1]] += 1
    expected = probabilities * trials
    often = expected >= 5
    statistic = ((counts - expected) ** 2 / expected)[often].sum()
    freedom = often.sum() - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)


def test_a_drafter_that_fails_ends_its_own_answer_alone():
    class Broken:
        def draft(self, tokens, most):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run([1, 2, 3], drafter=Broken())


def test_with_other_answers_in_the_step_nothing_is_drafted():
    class Never:
        def draft(self, tokens, most):
            raise AssertionError("it was asked")

    backend = FakeBackend(vocabulary_size=VOCABULARY, slots=2, capacity=64)
    scheduler = Scheduler(backend, SlotPool(2, 64))
    streams = [
        scheduler.run(
            Decoding(
                [start],
                lambda logits: int(logits.argmax()),
                max_tokens=5,
                speculation=Speculation([start], Never(), StepCosts()),
            )
        )
        for start in (1, 2)
    ]
    for pair in zip(*streams, strict=True):
        assert all(len(piece.token_ids) == 1 for piece in pair)


@pytest.fixture
def repeating(tmp_path):
    """A bundle whose answer repeats itself."""
    return write_fake_bundle(tmp_path / "bundle", reply="one two three, " * 6)


@pytest.mark.parametrize("how", ["lookup", "model"])
def test_a_loaded_model_answers_the_same_with_drafts(repeating, tmp_path, how):
    options = GenerationOptions(max_tokens=80, stop=("three, one two three, one two three, on",))
    with load(repeating) as model:
        expected = model.generate("Say it", options)
    more = {"prompt_lookup": True} if how == "lookup" else {"draft_model": repeating}
    with load(repeating, **more) as model:
        for _ in range(2):
            answer = model.generate("Say it", options)
            assert (answer.text, answer.token_ids, answer.finish_reason) == (
                expected.text,
                expected.token_ids,
                expected.finish_reason,
            )


def test_a_format_is_kept_with_drafts(repeating):
    wanted = OutputFormat.regex("(one two three, ){2}end")
    with load(repeating, prompt_lookup=True) as model:
        answer = model.generate("Say it", GenerationOptions(max_tokens=80, output_format=wanted))
    assert answer.text == "one two three, one two three, end"


def test_what_can_not_draft_is_refused(tmp_path, repeating):
    sequence = write_fake_sequence_bundle(tmp_path / "sequence")
    with pytest.raises(OptionsError, match="accepted: a decoder"):
        load(sequence, prompt_lookup=True)
    with pytest.raises(OptionsError, match="accepted: a decoder made to generate"):
        load(repeating, draft_model=sequence)
    with pytest.raises(OptionsError, match="accepted: one of them"):
        load(repeating, draft_model=repeating, prompt_lookup=True)

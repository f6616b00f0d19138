"""Answers that go on where the context ends."""

from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling import VOCABULARY, alone, decoding, greedy, ids, in_turn, make

from edgewise.runtime.backends.fake import FakeBackend
from edgewise.runtime.decoding import SINK_TOKENS
from edgewise.runtime.draft_length import StepCosts
from edgewise.runtime.drafting import PromptLookup
from edgewise.runtime.speculation import Speculation


def endless(prompt, *, max_tokens, window):
    """The answer with a window without a cache: what is seen is computed anew for each token."""
    backend = FakeBackend(vocabulary_size=VOCABULARY)
    seen, answer = list(prompt), []
    while len(answer) < max_tokens:
        token = greedy(backend.logits_after(seen))
        answer.append(token)
        if len(seen) == window:  # there is no room for the token
            text = [*seen, token]
            seen = text[:SINK_TOKENS] + text[-(window // 2) :]
        else:
            seen.append(token)
    return answer


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=32),
    window=st.integers(32, 40),
    chunk=st.integers(1, 40),
    lookup=st.booleans(),
)
def test_with_a_window_an_answer_has_no_end(prompt, window, chunk, lookup):
    _, scheduler = make(slots=1, capacity=40, prefill_chunk=chunk)
    speculation = Speculation(prompt, PromptLookup(), StepCosts()) if lookup else None
    one = decoding(prompt, max_tokens=120, window=window, speculation=speculation)
    pieces = list(scheduler.run(one))
    assert ids(pieces) == endless(prompt, max_tokens=120, window=window)
    assert pieces[-1].finished == "length"
    assert pieces[-1].statistics.prompt_tokens == len(prompt)
    assert scheduler.pool.free_slots == 1


def test_answers_with_and_without_a_window_go_together():
    _, scheduler = make(slots=2, capacity=40)
    answers = in_turn(
        scheduler, [decoding([1, 2], max_tokens=99, window=33), decoding([3], max_tokens=30)]
    )
    assert ids(answers[0]) == endless([1, 2], max_tokens=99, window=33)
    assert ids(answers[1]) == alone([3], max_tokens=30)

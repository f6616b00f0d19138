"""Sequence sessions over engines whose answers are known."""

import itertools

import numpy as np
import pytest

from edgewise.runtime.backends.fake import FakeBackend, FakeGraph
from edgewise.runtime.beam_search import log_softmax
from edgewise.runtime.generation import Piece
from edgewise.runtime.options import GenerationOptions, OptionsError, SamplingDefaults
from edgewise.runtime.sampling import LogitsError, Sampler
from edgewise.runtime.sessions import seq2seq
from edgewise.runtime.sessions.seq2seq import SequenceSession, SourceError
from edgewise.runtime.token_rules import TokenRules

START, END = 0, 1
WORDS = 12
SOURCE = [5, 6, 7, END]


class Tokenizer:
    """A token is a letter, "a" is token 0."""

    def encode(self, text):
        return [ord(letter) - ord("a") for letter in text]

    def bytes_of(self, token_id):
        return Letters().push(token_id).encode()

    def detokenizer(self):
        return Letters()


class Letters:
    def push(self, token_id):
        return chr(token_id + ord("a"))

    def finish(self):
        return ""


class Engine(FakeBackend):
    """Logits are a hash of the source and of the answer so far, whatever slot they are in."""

    source_capacity = 8

    def __init__(self, **more):
        super().__init__(**({"vocabulary_size": WORDS, "slots": 6, "capacity": 20} | more))
        self.sources = [None] * self.slots
        self.reads = 0
        self.rows = []

    def read_source(self, first_slot, token_ids, counts):
        self.reads += 1
        for row, count in enumerate(counts):
            self.sources[first_slot + row] = token_ids[row, :count].tolist()

    def copy_prefix(self, source, target, length):
        super().copy_prefix(source, target, length)
        self.sources[target] = self.sources[source]

    def step(self, first_slot, token_ids, past_lengths, counts=None):
        super().step(first_slot, token_ids, past_lengths, counts)
        self.rows.append(len(token_ids))
        return np.stack(
            [
                self.after(self.sources[slot], self._histories[slot])
                for slot in range(first_slot, first_slot + len(token_ids))
            ]
        )

    def after(self, source, history):
        assert history[0] == START
        return self.logits_after([*source, 99, *history[1:]]) / 4


def session(engine=None, **rules):
    more = {name: rules.pop(name) for name in ("defaults", "stop") if name in rules}
    engine = Engine() if engine is None else engine
    rules = TokenRules(**({"end": (END,)} | rules))
    return engine, SequenceSession(engine, Tokenizer(), rules, start=START, **more)


def greedy(source, most, *, engine=None, forbidden=()):
    """Answer without a cache: the whole history, each time."""
    engine = Engine() if engine is None else engine
    history = [START]
    while len(history) <= most and history[-1] != END:
        logits = engine.after(source, history)
        logits[list(forbidden)] = -np.inf
        history.append(int(logits.argmax()))
    return tuple(history[1:])


def options(**fields):
    return GenerationOptions(**({"max_tokens": 8} | fields))


def test_a_greedy_answer_is_that_of_the_whole_history():
    for first in range(2, 10):
        engine, sequences = session()
        source = [first, 3, END]
        answer = sequences.generate(source, options())
        assert answer.token_ids == greedy(source, 8)
        assert answer.finish_reason == ("stop" if answer.token_ids[-1] == END else "length")
        shown = [token for token in answer.token_ids if token != END]
        assert answer.text == "".join(map(Letters().push, shown))
        assert engine.reads == 1
        assert answer.statistics.prompt_tokens == 3
        assert answer.statistics.generated_tokens == len(answer.token_ids)


def test_a_source_has_the_end_token_behind_it():
    _, sequences = session()
    assert sequences.encode("cde") == [2, 3, 4, END]


def test_a_sampled_answer_is_the_samplers():
    for seed in range(5):
        engine, sequences = session()
        given = options(temperature=0.8, top_k=5, repetition_penalty=1.3, seed=seed)
        answer = sequences.generate(SOURCE, given)
        sampler = Sampler(given.sampling(SamplingDefaults()), [START])
        history = [START]
        while len(history) < 9 and history[-1] != END:
            history.append(sampler.sample(engine.after(SOURCE, history)))
        assert answer.token_ids == tuple(history[1:])


def test_the_bundles_sampling_is_the_default():
    _, sequences = session(defaults=SamplingDefaults(temperature=5.0))
    answers = {sequences.generate(SOURCE, options(seed=seed)).token_ids for seed in range(6)}
    assert len(answers) > 3
    assert sequences.generate(SOURCE, options(temperature=0)).token_ids == greedy(SOURCE, 8)


def test_streaming_gives_a_piece_a_token():
    _, sequences = session(Engine(graph=FakeGraph(seed=3)))
    pieces = list(sequences.stream(SOURCE, options()))
    assert [len(piece.token_ids) for piece in pieces] == [1] * len(pieces)
    assert [piece.finished is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].statistics is not None
    assert len(pieces) > 3


@pytest.mark.parametrize("beams", [1, 3])
def test_a_stop_text_ends_an_answer(beams):
    engine, sequences = session()
    whole = sequences.generate(SOURCE, options(beams=beams))
    assert len(whole.text) > 4
    cut = whole.text[2:4]
    _, other = session(stop=(cut,))
    for asked, given in (
        (sequences, options(beams=beams, stop=("?", cut))),
        (other, options(beams=beams)),
    ):
        answer = asked.generate(SOURCE, given)
        if beams == 1:
            assert answer.text == whole.text[:2]
            assert answer.token_ids == whole.token_ids[:4]
        found = asked.candidates(SOURCE, given)
        for one in found:
            text = "".join(map(Letters().push, one.token_ids)).removesuffix("b")
            assert one.text == text.partition(cut)[0]
            assert cut not in text[:-1]
            assert one.finish_reason == (
                "stop" if text.endswith(cut) or END in one.token_ids else "length"
            )
        assert answer.finish_reason == ("stop" if beams == 1 else found[0].finish_reason)
    raw = other.generate(SOURCE, options(beams=beams, raw=True))
    assert raw.text == whole.text
    assert engine.reads == 3


@pytest.mark.parametrize("most", [1, 2, 5])
def test_forced_tokens_begin_an_answer_and_end_one_that_is_cut(most):
    engine, sequences = session(forced_first=4, forced_last=END)
    answer = sequences.generate(SOURCE, options(max_tokens=most))
    history = [START, 4]
    while len(history) < most:
        history.append(int(engine.after(SOURCE, history).argmax()))
    assert END not in history
    expected = (*history[1:most], END)
    assert answer.token_ids == expected
    assert (answer.finish_reason, answer.text) == (
        "length",
        "".join(map(Letters().push, expected[:-1])),
    )
    for one in sequences.candidates(SOURCE, options(max_tokens=most, beams=3)):
        assert one.token_ids[:-1][:1] == (4,)[: most - 1]
        assert one.token_ids[-1] == END
        assert one.finish_reason == ("length" if len(one.token_ids) == most else "stop")


def test_padding_rows_and_early_ends_never_come():
    _, free = session()
    _, bound = session(sampled=6, least=4)
    for first in range(2, 6):
        source = [first, END]
        answer = bound.generate(source, options())
        assert answer.token_ids[:4] == greedy(source, 4, forbidden=(END, *range(6, WORDS)))
        assert answer.token_ids != free.generate(source, options()).token_ids
        for one in bound.candidates(source, options(beams=4)):
            assert max(one.token_ids) < 6
            assert END not in one.token_ids[:4]
            assert len(one.token_ids) > 4 or one.finish_reason == "length"


def all_answers(engine, source, longest, length_penalty):
    """Return every answer and its score."""
    found = {}
    for length in range(1, longest + 1):
        for ids in itertools.product(range(engine.vocabulary_size), repeat=length):
            if END in ids[:-1] or (ids[-1] != END and length < longest):
                continue
            rows = np.stack([engine.after(source, [START, *ids[:at]]) for at in range(length)])
            log_p = log_softmax(rows)[np.arange(length), ids].sum()
            found[ids] = log_p / length**length_penalty
    return found


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_enough_beams_find_the_best_of_all_answers(length_penalty):
    engine = Engine(vocabulary_size=4, slots=64)
    _, sequences = session(engine)
    for first in (2, 3):
        source = [first, END]
        expected = all_answers(engine, source, 4, length_penalty)
        given = options(beams=64, max_tokens=4, length_penalty=length_penalty)
        found = sequences.candidates(source, given)
        best = sorted(expected, key=expected.get, reverse=True)[:64]
        assert [one.token_ids for one in found] == best
        assert [one.score for one in found] == pytest.approx([expected[ids] for ids in best])


def test_beams_are_slots_that_are_copied_only_when_hypotheses_part():
    engine, sequences = session()
    given = options(beams=5)
    found = sequences.candidates(SOURCE, given)
    assert len(found) == 5
    assert engine.reads == 1
    assert engine.rows[0] == 1
    assert set(engine.rows[1:]) == {5}
    for one in found:
        log_p = log_softmax(
            np.stack(
                [
                    engine.after(SOURCE, [START, *one.token_ids[:at]])
                    for at in range(len(one.token_ids))
                ]
            )
        )[np.arange(len(one.token_ids)), one.token_ids].sum()
        assert one.log_probability == pytest.approx(log_p)
        assert one.score == pytest.approx(log_p / len(one.token_ids))
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)


def test_groups_find_other_answers():
    _, sequences = session()
    plain = sequences.candidates(SOURCE, options(beams=6))
    diverse = sequences.candidates(SOURCE, options(beams=6, beam_groups=6, diversity_penalty=100.0))
    assert len({one.token_ids[0] for one in diverse}) == 6
    assert len({one.token_ids[0] for one in plain}) < 6
    greedy_one = greedy(SOURCE, 8)
    assert greedy_one in {one.token_ids for one in diverse}  # the first group's, of one beam


def test_a_stream_of_beams_brings_the_text_at_the_end():
    engine, sequences = session()
    given = options(beams=4, length_penalty=0.5)
    pieces = list(sequences.stream(SOURCE, given))
    best, *_ = sequences.candidates(SOURCE, given)
    *others, last = pieces
    assert others == [Piece("", ())] * len(others)
    assert len(others) == len(engine.rows) // 2 - 1
    assert (last.text, last.token_ids, last.finished) == (
        best.text,
        best.token_ids,
        best.finish_reason,
    )
    assert last.statistics.generated_tokens == len(best.token_ids)
    assert last.statistics.prompt_tokens == len(SOURCE)


def test_figures_leave_the_consumers_time_out(monkeypatch):
    """A clock that the engine moves by 1 s a step, and the consumer by 1000 s a piece."""
    now = [0.0]
    monkeypatch.setattr(seq2seq, "perf_counter", lambda: now[0])
    engine, sequences = session()
    step = engine.step

    def slow_step(*arguments):
        now[0] += 1.0
        return step(*arguments)

    monkeypatch.setattr(engine, "step", slow_step)
    for given in (options(max_tokens=3), options(max_tokens=3, beams=2)):
        for piece in sequences.stream(SOURCE, given, encoding_seconds=0.5):
            now[0] += 1000.0
            statistics = piece.statistics
        assert statistics.time_to_first_token_seconds == 1.5
        assert statistics.prefill_tokens_per_second == pytest.approx(len(SOURCE) / 1.5)
        assert statistics.decode_tokens_per_second == pytest.approx(1.0)
        assert statistics.generated_tokens == 3


def test_the_penalty_of_repetition_holds_in_a_search():
    """With a penalty without bound, no token comes twice, the start token included."""
    _, sequences = session(least=8)
    for one in sequences.candidates(SOURCE, options(beams=4, repetition_penalty=100.0)):
        assert len(set(one.token_ids)) == len(one.token_ids)
        assert START not in one.token_ids


def test_answers_end_at_the_capacity():
    _, sequences = session(Engine(capacity=5), least=99)
    assert len(sequences.generate(SOURCE, options()).token_ids) == 5
    assert {len(one.token_ids) for one in sequences.candidates(SOURCE, options(beams=2))} == {5}


@pytest.mark.parametrize("ask", ["generate", "candidates"])
def test_what_can_not_be_answered_is_refused(ask):
    _, sequences = session()
    answer = getattr(sequences, ask)
    with pytest.raises(SourceError, match="has 9 tokens, this model reads 1 to 8"):
        answer([4] * 9, options())
    with pytest.raises(SourceError, match="has 0 tokens"):
        answer([], options())
    with pytest.raises(OptionsError, match="beams is 7; accepted: up to 6"):
        answer(SOURCE, options(beams=7))


@pytest.mark.parametrize("beams", [1, 3])
def test_logits_that_are_no_numbers_are_an_error(beams, monkeypatch):
    engine, sequences = session()
    step = engine.step

    def broken(*arguments):
        logits = step(*arguments)
        logits[-1, 5] = np.nan
        return logits

    monkeypatch.setattr(engine, "step", broken)
    with pytest.raises(LogitsError):
        sequences.generate(SOURCE, options(beams=beams))


@pytest.mark.parametrize("beams", [1, 3])
def test_one_generation_at_a_time_and_a_closed_one_is_over(beams):
    engine, sequences = session()
    given = options(beams=beams)
    expected = sequences.generate(SOURCE, given)
    stream = sequences.stream(SOURCE, given)
    next(stream)
    with pytest.raises(ValueError, match="has a generation open"):
        next(sequences.stream(SOURCE, given))
    steps = engine.steps
    stream.close()
    assert engine.steps == steps
    assert sequences.generate(SOURCE, given).token_ids == expected.token_ids
    for piece in sequences.stream(SOURCE, given):
        if piece.finished is not None:
            assert sequences.generate(SOURCE, given).token_ids == expected.token_ids


def test_closing_closes_the_engine():
    engine, sequences = session()
    sequences.close()
    assert engine.closed

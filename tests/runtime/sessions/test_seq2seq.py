"""Sequence sessions over an engine whose answers are known."""

import numpy as np
import pytest

from edgewise.runtime.sessions.seq2seq import SequenceSession, SequenceTokens, SourceError

TOKENS = SequenceTokens(start=0, end=1)


class Tokenizer:
    def encode(self, text, *, add_beginning=None, special=True):
        assert add_beginning is False
        return [int(word) for word in text.split()]

    def decode(self, token_ids):
        return " ".join(map(str, token_ids))


class Engine:
    """Answers with the source backwards, then its end token: each step checks its history."""

    slots, capacity, source_capacity, vocabulary_size = 1, 6, 5, 50

    def __init__(self):
        self.sources = []
        self.history = []
        self.closed = False

    def read_source(self, first_slot, token_ids, counts):
        assert first_slot == 0
        self.sources.append(token_ids[0, : counts[0]].tolist())

    def step(self, first_slot, token_ids, past_lengths, counts=None):
        past = int(past_lengths[0])
        self.history = [*self.history[:past], *token_ids[0].tolist()]
        source = self.sources[-1]
        answer = [*source[-2::-1], source[-1]]
        assert self.history == [TOKENS.start, *answer[:past]]
        logits = np.zeros((1, self.vocabulary_size), np.float32)
        logits[0, answer[past] if past < len(answer) else 7] = 1
        return logits

    def close(self):
        self.closed = True


def test_an_answer_ends_at_its_end_token_which_is_left_out():
    engine = Engine()
    session = SequenceSession(engine, Tokenizer(), TOKENS)
    assert session.generate("10 11 12") == "12 11 10"
    assert engine.sources == [[10, 11, 12, 1]]


def test_a_source_is_read_once_an_answer():
    engine = Engine()
    session = SequenceSession(engine, Tokenizer(), TOKENS)
    assert [session.generate("10 11"), session.generate("12")] == ["11 10", "12"]
    assert engine.sources == [[10, 11, 1], [12, 1]]


@pytest.mark.parametrize(("most", "count"), [(1, 1), (2, 2), (100, 6)])
def test_an_answer_ends_at_what_is_asked_for_and_at_the_capacity(most, count):
    session = SequenceSession(Engine(), Tokenizer(), TOKENS)
    ids = session.stream_ids([10, 11, 12, 13, 20], max_tokens=most)
    assert list(ids) == [13, 12, 11, 10, 20, 7][:count]


def test_sources_that_do_not_fit_are_refused():
    session = SequenceSession(Engine(), Tokenizer(), TOKENS)
    with pytest.raises(SourceError, match="has 6 tokens, this model reads 1 to 5"):
        session.generate("10 11 12 13 14")
    with pytest.raises(SourceError, match="has 0 tokens"):
        next(session.stream_ids([]))


def test_closing_closes_the_engine():
    engine = Engine()
    SequenceSession(engine, Tokenizer(), TOKENS).close()
    assert engine.closed

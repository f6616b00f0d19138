"""Encoder sessions over an engine whose numbers are known, and over real tiny graphs."""

import numpy as np
import pytest

from edgewise.runtime.sessions.encoder import (
    BATCH,
    BATCH_TOKENS,
    EncoderError,
    EncoderSession,
    EncoderTokens,
)

TOKENS = EncoderTokens(beginning=1, separator=2, mask=3)
WORDS = 40


class Tokenizer:
    """A token a word, which is a number; "[MASK]" is the mask."""

    def encode(self, text, *, add_beginning=None, special=True):
        assert add_beginning is False
        return [3 if word == "[MASK]" else int(word) for word in text.split()]

    def decode(self, token_ids):
        return " ".join(map(str, token_ids))


class Engine:
    """Each result is told by the ids alone; padding gives what would be noticed."""

    capacity = 8

    def __init__(self, *names):
        self._names = names
        self.calls = []
        self.closed = False

    def encode(self, token_ids, counts, token_types=None):
        self.calls.append((token_ids.tolist(), counts.tolist(), token_types.tolist()))
        real = np.arange(token_ids.shape[1]) < counts[:, None]
        words = np.where(real, token_ids, 1000).astype(np.float32)
        results = {
            # The word after each token is the most probable, the one before it comes next.
            "logits": -np.abs(np.arange(WORDS) - words[..., None] - 0.9),
            "hidden_states": np.stack([words, words + 0.5], axis=2),
            "mean": np.stack([words.min(axis=1), words[:, 1]], axis=1)[:, None],
        }
        return {name: results[name].astype(np.float32) for name in self._names}

    def close(self):
        self.closed = True


def session(*names, **more):
    engine = Engine(*names)
    return engine, EncoderSession(engine, Tokenizer(), TOKENS, **more)


def test_texts_stand_between_the_models_tokens():
    engine, encoder = session("mean")
    encoder.embed(["10 11", ("12", "13 14")])
    assert engine.calls == [
        (
            [[1, 10, 11, 2, 0, 0], [1, 12, 2, 13, 14, 2]],
            [4, 6],
            [[0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]],
        )
    ]


def test_pairs_may_have_two_separators():
    engine = Engine("mean")
    tokens = EncoderTokens(beginning=1, separator=2, separators_between=2)
    EncoderSession(engine, Tokenizer(), tokens).embed([("10", "11")])
    assert engine.calls[0][0] == [[1, 10, 2, 2, 11, 2]]


def test_vectors_have_length_one_or_their_own():
    _, encoder = session("mean")
    texts = [str(10 + index) for index in range(2 * BATCH + 1)]
    plain = encoder.embed(texts, normalize=False)
    assert plain.tolist() == [[1, 10 + index] for index in range(2 * BATCH + 1)]
    vectors = encoder.embed(texts)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.allclose(vectors * np.linalg.norm(plain, axis=1, keepdims=True), plain)


def test_the_first_tokens_state_may_stand_for_a_text():
    _, encoder = session("hidden_states")
    vectors = encoder.embed(["10", "11 12"], pooling="first", normalize=False)
    assert vectors.tolist() == [[TOKENS.beginning, TOKENS.beginning + 0.5]] * 2


def test_no_texts_are_no_vectors():
    engine, encoder = session("mean")
    assert len(encoder.embed([])) == 0
    assert engine.calls == []


def test_each_mask_is_guessed_apart():
    _, encoder = session("logits")
    guesses = encoder.fill_mask("20 [MASK] 21 [MASK]", count=3)
    assert [len(row) for row in guesses] == [3, 3]
    assert [guess.token_id for guess in guesses[0]] == [4, 3, 5]
    assert guesses[0] == guesses[1]
    assert guesses[0][0].text == "4"
    distances = np.abs(np.arange(WORDS) - 3.9)
    expected = np.exp(-distances) / np.exp(-distances).sum()
    assert guesses[0][0].probability == pytest.approx(expected[4], rel=1e-5)


def test_labels_come_with_the_most_probable_first():
    class Classifier(Engine):
        def encode(self, token_ids, counts, token_types=None):
            rows = [[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]
            return {"logits": np.asarray(rows[: len(token_ids)], np.float32)[:, None]}

    labels = ("no", "maybe", "yes")
    answers = EncoderSession(Classifier(), Tokenizer(), TOKENS, labels).classify(["10", "11"])
    assert list(answers[0]) == ["maybe", "yes", "no"]
    assert list(answers[1]) == ["no", "maybe", "yes"]
    total = 1 + np.exp(2) + np.exp(1)
    assert answers[0]["maybe"] == pytest.approx(np.exp(2) / total)
    assert sum(answers[1].values()) == pytest.approx(1)


def test_what_can_not_be_answered_is_refused():
    _, encoder = session("logits")
    with pytest.raises(EncoderError, match="9 tokens, this model reads at most 8"):
        encoder.fill_mask("10 [MASK] 11 12 13 14 15")
    with pytest.raises(EncoderError, match="no mask"):
        encoder.fill_mask("10 11")
    with pytest.raises(EncoderError, match="no labels"):
        encoder.classify(["10"])
    with pytest.raises(EncoderError, match=r"gives logits.*needs mean"):
        encoder.embed(["10"])


def test_closing_closes_the_engine():
    engine, encoder = session("mean")
    encoder.close()
    assert engine.closed


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ([3] * 20, [8, 8, 4]),
        ([3, 600, 3, 3], [1, 1, 2]),
        ([256, 256, 256], [2, 1]),
        ([10, 10, 400], [2, 1]),
        ([512, 2], [1, 1]),
        ([], []),
    ],
)
def test_texts_go_together_as_far_as_their_padded_tokens_allow(lengths, batches):
    engine, encoder = session("mean")
    engine.capacity = 1000
    vectors = encoder.embed([" ".join(["7"] * (length - 2)) for length in lengths])
    assert len(vectors) == len(lengths)
    assert [len(counts) for _, counts, _ in engine.calls] == batches
    assert [count for _, counts, _ in engine.calls for count in counts] == lengths
    for token_ids, counts, _ in engine.calls:
        assert len(counts) == 1 or len(counts) * len(token_ids[0]) <= BATCH_TOKENS

"""Encoder models over a fake engine whose numbers are known."""

import threading

import numpy as np
import pytest

from edgewise.runtime.backends.fake import hashed
from edgewise.runtime.backends.fake_bundle import CLS, MASK, SEP, write_fake_encoder_bundle
from edgewise.runtime.labelled_spans import LabelledSpan
from edgewise.runtime.loading import load
from edgewise.runtime.model import ModelError
from edgewise.runtime.options import OptionsError
from edgewise.runtime.sessions.encoder import EncoderError
from edgewise.runtime.tasks import TaskError

LABELS = ("bad", "fair", "good")


def bytes_of(text):
    """Ids of a text's bytes: the four special tokens come first, then the bytes in their order."""
    alphabet = sorted(byte_characters().values())
    return [4 + alphabet.index(byte_characters()[byte]) for byte in text.encode()]


def byte_characters():
    """GPT-2's table of bytes as printable characters."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {
        byte: chr(256 + index) for index, byte in enumerate(hidden)
    }


def framed(*texts):
    """What the fake hashes: twice each id, plus 1 in a second text."""
    ids = [2 * CLS, *(2 * token for token in bytes_of(texts[0])), 2 * SEP]
    for text in texts[1:]:
        ids += [*(2 * token + 1 for token in bytes_of(text)), 2 * SEP + 1]
    return ids


def softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


@pytest.fixture
def guesser(tmp_path):
    with load(write_fake_encoder_bundle(tmp_path / "guesser")) as model:
        yield model


@pytest.fixture
def classifier(tmp_path):
    folder = write_fake_encoder_bundle(
        tmp_path / "classifier", tasks=("classify",), labels=LABELS, seed=3
    )
    with load(folder) as model:
        yield model


def test_labels_come_with_their_probabilities(classifier):
    texts = ["a", ("Zürich", "Genf"), "x" * 62]
    answers = classifier.classify(texts)
    assert len(answers) == 3
    for text, answer in zip(texts, answers, strict=True):
        parts = (text,) if isinstance(text, str) else text
        expected = softmax(hashed(framed(*parts), 3, seed=3))
        assert answer == pytest.approx(dict(zip(LABELS, expected, strict=True)))
        assert list(answer.values()) == sorted(answer.values(), reverse=True)
    assert classifier.classify(["a"])[0] == pytest.approx(answers[0])
    assert classifier.classify([["Zürich", "Genf"]])[0] == pytest.approx(answers[1])
    assert classifier.classify([]) == []


def test_vectors_are_the_mean_of_the_states(guesser):
    vectors = guesser.embed(["ab", "cdef", "ab"])
    assert vectors.shape == (3, 8)
    assert vectors.dtype == np.float32
    states = [hashed([*framed("cdef"), -place], 8, seed=0) for place in range(6)]
    raw = guesser.embed(["ab", "cdef"], normalize=False)
    np.testing.assert_allclose(raw[1], np.mean(states, axis=0), rtol=1e-6)
    np.testing.assert_allclose(vectors[1], raw[1] / np.linalg.norm(raw[1]), rtol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert guesser.embed([]).shape[0] == 0


def test_the_first_state_is_taken_where_the_model_was_trained_so(tmp_path):
    folder = write_fake_encoder_bundle(tmp_path / "b", tasks=("embed",), pooling="first")
    with load(folder) as model:
        raw = model.embed(["ab"], normalize=False)
        np.testing.assert_array_equal(raw[0], hashed([*framed("ab"), 0], 8, seed=0))


def test_words_for_each_mask(guesser):
    assert guesser.mask_text == "[MASK]"
    first, second = guesser.fill_mask("[MASK]b[MASK]", count=3)
    ids = [2 * CLS, 2 * MASK, *(2 * token for token in bytes_of("b")), 2 * MASK, 2 * SEP]
    for place, guesses in ((1, first), (3, second)):
        probabilities = softmax(hashed([*ids, -place], 260, seed=0))
        best = np.argsort(-probabilities)[:3]
        assert [guess.token_id for guess in guesses] == best.tolist()
        assert [guess.probability for guess in guesses] == pytest.approx(probabilities[best])
        assert [guess.text for guess in guesses] == [
            guesser.tokenizer.decode([int(token)]) for token in best
        ]


def test_parts_of_texts_are_those_of_their_words_first_letters(tmp_path):
    """Every byte is a token here, and each word one part or none."""
    known = ("O", "NAME", "PLACE")
    folder = write_fake_encoder_bundle(
        tmp_path / "labeller", tasks=("token-classify",), labels=known, seed=4
    )
    text = "Ada met Bo\tin  Rome"
    with load(folder) as model:
        found, others = model.token_classify([text, "x"])
        engine = model._backend
        expected = []
        for word in ("Ada", "met", "Bo", "in", "Rome"):
            start = text.index(word)
            row = softmax(engine.of_token(framed(text), 1 + start, 3))
            if row.argmax():
                span = (word, known[row.argmax()], float(row.max()), start, start + len(word))
                expected.append(LabelledSpan(*span))
        assert found == expected
        assert 0 < len(found) < 5
        assert len(others) <= 1
        with pytest.raises(OptionsError, match="holds the pair"):
            model.token_classify([("a", "b")])
        with pytest.raises(TaskError, match="not made for the task classify"):
            model.classify(["a"])
    with pytest.raises(ModelError, match="closed"):
        model.token_classify(["a"])


def test_what_the_bundle_was_not_made_for_is_refused_with_what_it_was(guesser, classifier):
    with pytest.raises(TaskError, match="not made for the task classify, but for fill-mask, embed"):
        guesser.classify(["a"])
    with pytest.raises(TaskError, match="task fill-mask, but for classify; ask for that"):
        classifier.fill_mask("[MASK]")
    with pytest.raises(TaskError, match="task embed"):
        classifier.embed(["a"])


@pytest.mark.parametrize("texts", ["text", 7, [7], [("a",)], [("a", "b", "c")], [("a", 1)], b"x"])
def test_what_is_no_list_of_texts_is_refused(classifier, texts):
    with pytest.raises(OptionsError, match="accepted: "):
        classifier.classify(texts)


@pytest.mark.parametrize("count", [0, 1001, 1.5, True])
def test_a_count_outside_what_is_accepted_is_refused(guesser, count):
    with pytest.raises(OptionsError, match=r"count is .*; accepted: a whole number from 1 to 1000"):
        guesser.fill_mask("[MASK]", count=count)


def test_a_text_that_does_not_fit_is_refused_with_both_numbers(classifier, guesser):
    with pytest.raises(EncoderError, match="has 65 tokens, this model reads at most 64"):
        classifier.classify(["a", "x" * 63])
    with pytest.raises(EncoderError, match="has 66 tokens"):
        classifier.classify([("x" * 31, "y" * 32)])
    with pytest.raises(EncoderError, match="there is no mask"):
        guesser.fill_mask("nothing is missing")


def test_threads_take_turns_and_closing_ends_it(tmp_path):
    folder = write_fake_encoder_bundle(tmp_path / "b", step_seconds=0.002)
    model = load(folder)
    expected = model.embed(["a", "b"])
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(model.embed(["a", "b"]))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all((result == expected).all() for result in results)
    model.close()
    model.close()
    with pytest.raises(ModelError, match="the model is closed"):
        model.embed(["a"])


def test_padding_rows_of_the_vocabulary_are_no_guess(tmp_path):
    folder = write_fake_encoder_bundle(tmp_path / "b", sampled_vocabulary=9)
    with load(folder) as model:
        (guesses,) = model.fill_mask("ab[MASK]", count=100)
    assert sorted(guess.token_id for guess in guesses) == list(range(9))
    assert sum(guess.probability for guess in guesses) == pytest.approx(1.0)

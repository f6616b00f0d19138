"""Tiny encoders and encoder-decoders from definition to answer: sessions over both runtimes."""

import re

import numpy as np
import pytest
from family_graphs import RUNTIMES, build, open_encoder, open_encoder_decoder
from tiny_families import ENCODER_DECODERS, TinyEncoder, TinyEncoderDecoder

from edgewise.exporter.graph.numpy_builder import NumpyBuilder
from edgewise.exporter.graph.numpy_encoder import NumpyEncoderBuilder
from edgewise.runtime.labelled_spans import TokenSpan
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.sessions.encoder import EncoderSession, EncoderTokens
from edgewise.runtime.sessions.seq2seq import SequenceSession
from edgewise.runtime.token_rules import TokenRules

TOKENS = EncoderTokens(beginning=290, separator=291, mask=292)
PAIR = ([5, 60, 7], [80, 9])
IDS, TYPES = [290, 5, 60, 7, 291, 80, 9, 291], [0] * 5 + [1] * 3


class Tokenizer:
    """Texts are numbers, a token each."""

    def encode(self, text, *, add_beginning=None, special=True):
        return [int(word) for word in text.split()]

    def decode(self, token_ids):
        return " ".join(map(str, token_ids))

    def bytes_of(self, token_id):
        return Detokenizer().push(token_id).encode()

    def detokenizer(self):
        return Detokenizer()

    def spans(self, text):
        words = re.finditer(r"\S+", text)
        return [
            TokenSpan(int(word[0]), word.start(), word.end(), number)
            for number, word in enumerate(words)
        ]


class Detokenizer:
    def push(self, token_id):
        return f"{token_id} "

    def finish(self):
        return ""


def text(ids):
    return " ".join(map(str, ids))


def session(name, runtime, folder):
    model = TinyEncoder(name)
    build(runtime, model, folder)
    backend = open_encoder(runtime, folder)
    return model, EncoderSession(backend, Tokenizer(), TOKENS, model.configuration.labels)


def reference(model, ids, types):
    builder = NumpyEncoderBuilder(np.asarray([ids]), None, np.asarray([types]))
    model.forward(builder)
    return {name: array[0] for name, array in builder.outputs.items()}


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_embeddings_are_the_references(tmp_path, runtime):
    model, encoder = session("bert_features", runtime, tmp_path)
    vectors = encoder.embed([(text(PAIR[0]), text(PAIR[1])), text(range(20, 30))])
    expected = reference(model, IDS, TYPES)["mean"][0]
    assert np.abs(vectors[0] - expected / np.linalg.norm(expected)).max() < 1e-5


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_labels_are_the_references(tmp_path, runtime):
    model, encoder = session("bert_classification", runtime, tmp_path)
    answer = encoder.classify([(text(PAIR[0]), text(PAIR[1]))])[0]
    expected = softmax(reference(model, IDS, TYPES)["logits"][0])
    assert [answer[label] for label in ("no", "maybe", "yes")] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_labels_of_words_are_the_references(tmp_path, runtime):
    model, encoder = session("bert_token_classification", runtime, tmp_path)
    labels = model.configuration.labels
    words = [5, 60, 7, 80, 9, 33, 12, 100]
    (found,) = encoder.token_classify([text(words)])
    ids = [290, *words, 291]
    rows = [softmax(row) for row in reference(model, ids, [0] * 10)["logits"][1:-1]]
    best = [int(row.argmax()) for row in rows]
    begins = [place for place in range(8) if labels[best[place]] != "O"]
    if any(label.startswith(("B-", "I-")) for label in labels):
        begins = [
            place
            for place in begins
            if not labels[best[place]].startswith("I-")
            or place == 0
            or labels[best[place - 1]][2:] != labels[best[place]][2:]
        ]
    assert len(begins) > 2
    assert [int(one.text.split()[0]) for one in found] == [words[place] for place in begins]
    for one, place in zip(found, begins, strict=True):
        assert labels[best[place]].endswith(one.label)
        if len(one.text.split()) == 1:
            assert one.probability == pytest.approx(rows[place].max(), abs=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_guesses_are_the_references(tmp_path, runtime):
    model, encoder = session("bert_masked_language_model", runtime, tmp_path)
    guesses = encoder.fill_mask("5 292 7 80", count=4)[0]
    ids = [290, 5, 292, 7, 80, 291]
    expected = softmax(reference(model, ids, [0] * 6)["logits"][2])
    best = np.argsort(-expected)[:4]
    assert [guess.token_id for guess in guesses] == best.tolist()
    assert [guess.probability for guess in guesses] == pytest.approx(expected[best], abs=1e-4)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_greedy_answers_are_the_references(tmp_path, runtime, name):
    model = TinyEncoderDecoder(name)
    build(runtime, model, tmp_path)
    backend = open_encoder_decoder(runtime, model, tmp_path)
    sequences = SequenceSession(backend, Tokenizer(), TokenRules(end=(1,)), start=0)
    for source in model.content["sources"]:
        ids = [*source, 1]
        encoder = NumpyEncoderBuilder(np.asarray([ids]))
        model.encode(encoder)
        expected = [0]
        for _ in range(12):  # as plainly as can be: every step runs all again, without a cache
            decoder = NumpyBuilder(np.asarray([expected]), encoder=encoder.states)
            model.decode(decoder)
            second, best = np.partition(decoder.logits[0, -1], -2)[-2:]
            if best - second < 1e-3 or expected[-1] == 1:
                break  # a tie, which rounding decides, or the end
            expected.append(int(decoder.logits[0, -1].argmax()))
        assert len(expected) > 4
        answer = sequences.generate(ids, GenerationOptions(max_tokens=len(expected) - 1))
        assert answer.token_ids == tuple(expected[1:])
        assert answer.text == "".join(f"{token} " for token in expected[1:] if token != 1)

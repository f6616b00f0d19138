"""Sequence models over a fake engine: the same pieces and figures as language models."""

import dataclasses
import threading

import pytest

from edgewise.runtime.backends.fake_bundle import (
    END,
    START,
    write_fake_sequence_bundle,
)
from edgewise.runtime.backends.fake_encoder import FakeEncoderDecoderBackend
from edgewise.runtime.bundle import open_bundle, write_manifest
from edgewise.runtime.chat import ChatError
from edgewise.runtime.loading import load
from edgewise.runtime.model import ModelError
from edgewise.runtime.options import GenerationOptions, OptionsError
from edgewise.runtime.output_format import OutputFormat
from edgewise.runtime.sessions.seq2seq import SourceError

REPLY = "Paris est la capitale de la France 🙂."


@pytest.fixture
def model(tmp_path):
    with load(write_fake_sequence_bundle(tmp_path / "b")) as model:
        yield model


def test_a_source_gives_pieces_whose_texts_are_the_answer(model):
    pieces = list(model.stream("Paris is the capital of France."))
    assert "".join(piece.text for piece in pieces) == REPLY
    assert [piece.text for piece in pieces if not piece.text.isascii()] == ["🙂"]
    *others, last = pieces
    assert all(piece.finished is piece.statistics is None for piece in others)
    assert (last.finished, last.token_ids) == ("stop", (END,))
    assert last.statistics.prompt_tokens == len("Paris is the capital of France.") + 1
    assert last.statistics.generated_tokens == len(REPLY.encode()) + 1
    assert last.statistics.time_to_first_token_seconds > 0
    whole = model.generate("Another source.")
    assert whole.text == REPLY
    assert whole.finish_reason == "stop"


def test_without_a_fixed_reply_each_token_follows_source_and_answer(tmp_path):
    folder = write_fake_sequence_bundle(tmp_path / "b", reply="", context_length=12)
    engine = FakeEncoderDecoderBackend(vocabulary_size=260, source_capacity=128)
    with load(folder) as model:
        source = [*model.tokenizer.encode("Zürich"), END]
        for _ in range(2):
            result = model.generate("Zürich")
            history = [*source, START]
            for token in result.token_ids:
                assert int(engine.logits_after(history).argmax()) == token
                history.append(token)
            assert len(result.token_ids) == 12 or result.finish_reason == "stop"
        assert model.generate("Genf").token_ids != result.token_ids


@pytest.mark.parametrize(("most", "count"), [(1, 1), (5, 5), (40, 40), (41, 41), (1000, 41)])
def test_an_answer_ends_at_what_is_asked_for(model, most, count):
    result = model.generate("x", GenerationOptions(max_tokens=most))
    ids = [*model.tokenizer.encode(REPLY), END]
    assert len(ids) == 41
    assert list(result.token_ids) == ids[:count]
    assert result.finish_reason == ("stop" if count == 41 else "length")


def test_stop_texts_of_the_caller_and_of_the_bundle_end_an_answer(tmp_path):
    folder = write_fake_sequence_bundle(tmp_path / "b", stop=("capitale",))
    with load(folder) as model:
        assert model.generate("x").text == "Paris est la "
        assert model.generate("x", GenerationOptions(stop=("est",))).text == "Paris "
        assert model.generate("x", GenerationOptions(raw=True)).text == REPLY
        assert model.generate("x").finish_reason == "stop"


def test_sampling_is_as_asked_for_or_as_the_bundle_advises(tmp_path):
    folder = write_fake_sequence_bundle(tmp_path / "b", reply="")
    with load(folder) as model:
        options = [
            GenerationOptions(max_tokens=20, temperature=temperature, seed=seed)
            for temperature, seed in ((0, 1), (50.0, 1), (50.0, 1), (50.0, 2))
        ]
        greedy, one, again, two = (model.generate("x", each).token_ids for each in options)
        assert one == again
        assert len({greedy, one, two}) == 3


def test_a_format_of_the_output_is_refused(tmp_path):
    options = GenerationOptions(output_format=OutputFormat.regex("a+"))
    folder = write_fake_sequence_bundle(tmp_path / "b")
    with load(folder) as model, pytest.raises(OptionsError, match="follows none"):
        model.stream("x", options)


def test_beams_find_what_is_likelier_than_the_greedy_answer(tmp_path):
    folder = write_fake_sequence_bundle(tmp_path / "b", reply="", context_length=8, seed=5)
    wide = GenerationOptions(beams=4, max_tokens=6)
    with load(folder, slots=4) as model:
        found = model.candidates("x", wide)
        assert len(found) == 4
        assert [each.score for each in found] == sorted(
            (each.score for each in found), reverse=True
        )
        (alone,) = model.candidates("x", GenerationOptions(max_tokens=6))
        assert alone.token_ids == model.generate("x", GenerationOptions(max_tokens=6)).token_ids
        assert found[0].score > alone.score
        result = model.generate("x", wide)
        assert (result.text, result.token_ids) == (found[0].text, found[0].token_ids)
    with (
        load(folder) as model,
        pytest.raises(OptionsError, match="beams is 4; accepted: up to 1, as many as the model"),
    ):
        model.stream("x", wide)


def test_what_can_be_refused_is_refused_at_the_call(model):
    with pytest.raises(SourceError, match="has 129 tokens, this model reads 1 to 128"):
        model.stream("x" * 128)
    assert model.count_tokens("x" * 128) == 129
    assert model.source_length == 128
    with pytest.raises(ChatError, match="no chat template, so it takes no messages: give a text"):
        model.stream([{"role": "user", "content": "Hi"}])
    assert model.generate("").statistics.prompt_tokens == 1


def test_closing_a_stream_cancels_and_the_next_one_is_unharmed(model):
    stream = model.stream("x")
    next(stream)
    with pytest.raises(ModelError, match="has a generation open"):
        model.generate("y")
    stream.close()
    assert model.generate("y").text == REPLY


def test_threads_take_turns_and_closing_ends_it(tmp_path):
    model = load(write_fake_sequence_bundle(tmp_path / "b"))
    texts = []
    threads = [
        threading.Thread(target=lambda: texts.append(model.generate("x").text)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [REPLY] * 4
    model.close()
    with pytest.raises(ModelError, match="the model is closed"):
        model.stream("x")


def test_tokens_that_the_manifest_forces_are_in_every_answer(tmp_path):
    folder = write_fake_sequence_bundle(tmp_path / "b")
    manifest = open_bundle(folder).manifest
    tokens = dataclasses.replace(manifest.tokens, forced_first=77, forced_last=END)
    write_manifest(folder, dataclasses.replace(manifest, tokens=tokens))
    with load(folder) as model:
        cut = model.generate("x", GenerationOptions(max_tokens=4))
        assert (cut.token_ids[0], cut.token_ids[-1], cut.finish_reason) == (77, END, "length")
        assert len(cut.token_ids) == 4

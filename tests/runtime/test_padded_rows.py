"""Rows with padding on either side."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.runtime.backends.fake_bundle import (
    CLS,
    SEP,
    write_fake_bundle,
    write_fake_encoder_bundle,
    write_fake_sequence_bundle,
    write_fake_vision_bundle,
)
from edgewise.runtime.backends.fake_bundle import END as SOURCE_END
from edgewise.runtime.loading import load
from edgewise.runtime.model import ModelError
from edgewise.runtime.options import GenerationOptions
from edgewise.runtime.padded_rows import PaddingError, in_front
from edgewise.runtime.sessions.encoder import BATCH, EncoderError
from edgewise.runtime.sessions.seq2seq import SourceError
from edgewise.runtime.slot_pool import ContextError

FILLER = 99  # an id that padding has, and that may be a token's too

rows_of_tokens = st.lists(
    st.lists(st.integers(0, 99), min_size=1, max_size=6), min_size=1, max_size=4
)


def batch(rows, starts, width):
    ids = np.full((len(rows), width), FILLER)
    mask = np.zeros_like(ids)
    for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[index, start : start + len(row)] = row
        mask[index, start : start + len(row)] = 1
    return ids, mask


@given(rows_of_tokens, st.data())
def test_rows_move_to_the_front_and_back(rows, data):
    width = max(map(len, rows)) + data.draw(st.integers(0, 3))
    starts = [data.draw(st.integers(0, width - len(row))) for row in rows]
    ids, mask = batch(rows, starts, width)
    moved = in_front(ids.tolist(), mask.tolist(), vocabulary_size=100)
    assert moved.lists() == rows
    assert moved.counts.tolist() == [len(row) for row in rows]
    assert moved.token_ids.tolist() == [row + [0] * (width - len(row)) for row in rows]
    states = np.random.default_rng(1).normal(size=(*ids.shape, 3))
    there = moved.front(states)
    for index, row in enumerate(rows):
        begin = starts[index]
        assert np.array_equal(there[index, : len(row)], states[index, begin : begin + len(row)])
    assert np.array_equal(moved.back(there), states * mask[..., None])


def test_without_a_mask_all_are_real():
    moved = in_front(np.asarray([[5, 6], [7, 8]], np.int32))
    assert moved.lists() == [[5, 6], [7, 8]]
    assert moved.token_ids.dtype == np.int64


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[1, 2], [3]], None, "rows of whole numbers, all of one length"),
        ([1, 2], None, r"the shape \(2,\).*rows of whole numbers"),
        ([[]], None, "rows of whole numbers"),
        ([[1.0, 2.0]], None, "type float64.*whole numbers"),
        ([["a"]], None, "whole numbers"),
        ([[1, 2]], [[1]], r"shape \(1, 1\) and token_ids \(1, 2\)"),
        ([[1, 2]], [[1, 2]], "1 for tokens, 0 for padding"),
        ([[1, 2], [1, 2]], [[1, 1], [0, 0]], "row 1 has no token"),
        ([[1, 2, 3]], [[1, 0, 1]], "row 0 has padding between its tokens"),
        ([[1, 100]], [[1, 1]], "token_ids has 100; accepted: ids from 0 to 99"),
        ([[-1, 1]], [[1, 1]], "token_ids has -1"),
    ],
)
def test_what_is_no_such_batch_is_refused(ids, mask, message):
    with pytest.raises(PaddingError, match=message):
        in_front(ids, mask, vocabulary_size=100)


def test_the_ids_of_padding_do_not_matter():
    assert in_front([[-100, 5]], [[0, 1]], vocabulary_size=6).lists() == [[5]]


def left_padded(rows):
    width = max(map(len, rows)) + 1
    return batch(rows, [width - len(row) for row in rows], width)


OPTIONS = GenerationOptions(max_tokens=9, raw=True)
PROMPTS = ["A question", "Another, longer question", "?"]


@pytest.mark.parametrize("slots", [1, 3])
def test_a_decoder_answers_each_row_as_alone(tmp_path, slots):
    with load(write_fake_bundle(tmp_path / "b", reply=""), slots=slots) as model:
        rows = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
        expected = [model.generate(prompt, OPTIONS).token_ids for prompt in PROMPTS]
        assert len(set(expected)) == 3
        answers = model.generate_rows(*left_padded(rows), OPTIONS)
        assert [answer.token_ids for answer in answers] == expected
        with pytest.raises(PaddingError, match="token_ids has 260; accepted: ids from 0 to 259"):
            model.generate_rows([[260]])
        with pytest.raises(ContextError, match="the prompt has 300 tokens"):
            model.generate_rows(np.ones((1, 300), int))
    with pytest.raises(ModelError, match="closed"):
        model.generate_rows([[5]])


def test_rows_that_are_raw_leave_out_the_bundles_stop_texts(tmp_path):
    folder = write_fake_bundle(tmp_path / "b", reply="Yes. No.", stop=(".",))
    with load(folder) as model:
        rows = [model.tokenizer.encode("<|user|>Hi<|end|><|assistant|>")]
        (kept,) = model.generate_rows(rows)
        (raw,) = model.generate_rows(rows, None, GenerationOptions(raw=True))
        assert (kept.text, raw.text) == ("Yes", "Yes. No.")


def test_a_vision_language_model_takes_no_ids_of_images(tmp_path):
    with load(write_fake_vision_bundle(tmp_path / "b")) as model:
        size = model.manifest.vocabulary_size
        with pytest.raises(PaddingError, match=f"token_ids has {size}"):
            model.generate_rows([[size]])


@pytest.mark.parametrize("beams", [1, 2])
def test_an_encoder_decoder_answers_each_row_as_alone(tmp_path, beams):
    options = GenerationOptions(max_tokens=9, beams=beams)
    with load(write_fake_sequence_bundle(tmp_path / "b", reply=""), slots=2) as model:
        rows = [[*model.tokenizer.encode(prompt), SOURCE_END] for prompt in PROMPTS]
        expected = [model.generate(prompt, options).token_ids for prompt in PROMPTS]
        assert len(set(expected)) == 3
        answers = model.generate_rows(*left_padded(rows), options)
        assert [answer.token_ids for answer in answers] == expected
        with pytest.raises(SourceError, match="the source has 900 tokens"):
            model.generate_rows(np.ones((1, 900), int))


def test_an_encoder_gives_all_results_at_their_places(tmp_path):
    folder = write_fake_encoder_bundle(tmp_path / "b")
    with load(folder) as model:
        rows = [[CLS, 7, 8, 9, SEP], [CLS, SEP]]
        ids, mask = left_padded(rows)
        results = model.encode(ids, mask)
        for index, row in enumerate(rows):
            alone = model.encode([row])
            assert results.keys() == alone.keys() == {"hidden_states", "mean", "logits"}
            for name, values in alone.items():
                assert np.array_equal(results[name][index, -values.shape[1] :], values[0])
        assert not results["logits"][mask == 0].any()
        with pytest.raises(PaddingError, match=r"token_types has the shape \(1, 1\)"):
            model.encode(ids, mask, [[0]])
        with pytest.raises(EncoderError, match="a row has 65 tokens, this model reads at most 64"):
            model.encode(np.full((1, 65), 7))
        with pytest.raises(PaddingError, match="token_ids has 260"):
            model.encode([[260]])


def test_rows_of_one_token_are_no_result_of_the_text(tmp_path):
    with load(write_fake_encoder_bundle(tmp_path / "b")) as model:
        shapes = {name: array.shape[1] for name, array in model.encode([[0, 7]], [[0, 1]]).items()}
        assert shapes == {"hidden_states": 2, "mean": 1, "logits": 2}


def test_more_rows_than_go_through_the_engine_together_keep_their_order(tmp_path):
    with load(write_fake_encoder_bundle(tmp_path / "b")) as model:
        rows = [[CLS, 4 + index, SEP] for index in range(2 * BATCH + 1)]
        together = model.encode(rows)["mean"]
        for index, row in enumerate(rows):
            assert np.array_equal(together[index], model.encode([row])["mean"][0])
